"""Methods x metrics x pairs: which maps are better than maps that explain nothing?"""

from captum_face.benchmark._tables import Row
from captum_face.benchmark.measures import METRICS, PROTOCOLS
from captum_face.benchmark.metric import Case, Measured, Metric, Scene
from captum_face.benchmark.result import BenchmarkResult
from captum_face.benchmark.run import benchmark

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "BenchmarkResult",
    "Case",
    "Measured",
    "Metric",
    "Row",
    "Scene",
    "benchmark",
]
