"""What methods are made of: masks, channel maps, morphs, cohorts, and the sides of a pair."""
