"""Recognisers behind a network: few requests, each of them tried again, counted and remembered."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_face._validation import require_positive, require_positive_int
from captum_face.models.adapters._pixels import Pixels, as_embeddings, as_pixels

__all__ = ["RemoteEmbedding", "RemoteScore", "RequestsUsedUp", "ServiceError"]

_MISTAKES = (
    TypeError,
    NameError,
    AttributeError,
    ImportError,
)  # of the caller's function: no use to try again


class ServiceError(RuntimeError):
    """A service that has not answered, however often it was asked."""


class RequestsUsedUp(RuntimeError):
    """More requests are needed than ``max_requests`` leaves; none of them was made."""


class _Service:
    """Items to rows of numbers by a function that may fail, is slow, and costs money."""

    def __init__(
        self,
        call: Callable[[list[Any]], Any],
        *,
        name: str,
        batch_size: int = 16,
        retries: int = 4,
        backoff: float = 1.0,
        timeout: float | None = None,
        max_requests: int | None = None,
        cache: str | Path | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        if not callable(call):
            raise TypeError(f"expected call to be a function of a list, got {type(call).__name__}")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"expected the name of the service with its version, such as 'acme faces 2.1', got {name!r}; "
                "answers are remembered under it"
            )
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"expected retries as a whole number of at least 0, got {retries!r}")
        self.call = call
        self.name = name
        self.batch_size = require_positive_int(batch_size, "batch_size")
        self.images_per_request = self.batch_size  # what captum_face.pair.speed.images_per_pass looks for
        self.retries = retries
        self.backoff = require_positive(backoff, "backoff", or_zero=True)
        self.timeout = None if timeout is None else require_positive(timeout, "timeout")
        self.max_requests = (
            None if max_requests is None else require_positive_int(max_requests, "max_requests")
        )
        self.input_size = input_size
        self.requests = 0  #: requests made so far, those that failed too
        self._cache = None if cache is None else _Cache(Path(cache), name)
        self._length: int | None = None if self._cache is None else self._cache.length()
        self._lock = threading.Lock()

    def _rows(self, items: Sequence[Any], keys: Sequence[bytes]) -> NDArray[np.float32]:
        """A row of numbers for each item; each different item is asked for once."""
        known = {} if self._cache is None else self._cache.read(keys)
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
        waiting = list(missing)
        batches = [waiting[i : i + self.batch_size] for i in range(0, len(waiting), self.batch_size)]
        for place, batch in enumerate(batches):
            if place == 0:
                self._require_left(len(batches))
            rows = self._checked(self._ask([missing[key] for key in batch]), len(batch))
            found = dict(zip(batch, rows, strict=True))
            if self._cache is not None:
                self._cache.write(found)  # at once: what is paid for is kept, whatever comes next
            known |= found
        return np.stack([known[key] for key in keys])

    def _require_left(self, needed: int) -> None:
        if self.max_requests is not None and self.requests + needed > self.max_requests:
            kept = "" if self._cache is None else f"; what was answered is kept in {self._cache.path}"
            raise RequestsUsedUp(
                f"expected at most max_requests={self.max_requests} requests to {self.name}, {self.requests} "
                f"were made and {needed} more are needed now{kept}. Raise max_requests or batch_size, or ask "
                "for less, as by a smaller n_masks"
            )

    def _count(self) -> None:
        with self._lock:
            self._require_left(1)
            self.requests += 1

    def _ask(self, items: list[Any]) -> Any:
        """What the service answers, tried again with growing pauses."""
        for attempt in range(self.retries + 1):
            self._count()
            try:
                return self._in_time(items)
            except Exception as error:
                if isinstance(error, _MISTAKES):
                    raise
                if attempt == self.retries:
                    goes_on = "it goes" if self._cache is not None else "with cache=FILE it would go"
                    raise ServiceError(
                        f"expected an answer of {self.name}, got {type(error).__name__} ({error}) at the "
                        f"last of {attempt + 1} attempts; {self.requests} requests were made in all. Call "
                        f"again when the service answers: {goes_on} on where this stopped"
                    ) from error
                # At random between half and all of it, so that many callers don't come back at one time.
                pause = self.backoff * 2**attempt * random.uniform(0.5, 1)
                warnings.warn(
                    f"{self.name}: {type(error).__name__} ({error}); attempt {attempt + 2} of "
                    f"{self.retries + 1} in {pause:.1f} s",
                    RuntimeWarning,
                    stacklevel=2,
                )
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _in_time(self, items: list[Any]) -> Any:
        """The function's answer, or a TimeoutError; what takes longer runs on and is not heeded."""
        if self.timeout is None:
            return self.call(items)
        answer: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                answer.append(self.call(items))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.timeout)
        if failure:
            raise failure[0]
        if not answer:
            raise TimeoutError(f"no answer within timeout={self.timeout:g} s")
        return answer[0]

    def _checked(self, answer: Any, count: int) -> NDArray[np.float32]:
        rows = as_embeddings(answer, count, self.name)
        if self._length is None:
            self._length = rows.shape[1]
        if rows.shape[1] != self._length:
            raise ValueError(
                f"expected embeddings of length {self._length} from {self.name}, as before, got length "
                f"{rows.shape[1]}; the service has changed: name= its version, so that its answers are kept "
                "apart"
            )
        return rows

    def _key(self, *images: Pixels) -> bytes:
        digest = hashlib.sha256(self.name.encode())
        for image in images:
            digest.update(str(image.shape).encode())
            digest.update(image.tobytes())
        return digest.digest()

    def __repr__(self) -> str:
        most = "" if self.max_requests is None else f" of at most {self.max_requests}"
        return f"{type(self).__name__}({self.name}, {self.requests} requests{most})"


class RemoteEmbedding(_Service):
    """A service that embeds faces, as an embedding model without gradients.

    Args:
        call: Your request: from a list of at most ``batch_size`` uint8 RGB arrays ``(H, W, 3)`` to one
            embedding for each, an array ``(N, D)`` or a list. It raises where the service fails. The images
            are aligned crops, so the service must not look for a face in them.
        name: The service with its version. Answers are remembered under it, and a benchmark takes services of
            one name for the same.
        batch_size: Images in one request, and so in one pass of methods that are not told otherwise.
        retries: How often a request that raised is tried again. Mistakes of the function itself (TypeError,
            NameError, AttributeError, ImportError) are not, and wrong answers are not.
        backoff: Seconds before the first new attempt, doubled for each further one. The pause is drawn at
            random between half and all of that.
        timeout: Seconds after which a request counts as failed, for functions that have no timeout of their
            own. The request itself cannot be called back. None for none.
        max_requests: Most requests that this object makes, failed ones too. None for no limit.
        cache: A file in which answers are kept (SQLite), made where there is none. A run that is started
            again with the same file asks for nothing twice. None keeps nothing.
        input_size: Height and width of the images; None for any.

    Shape: images ``(N, 3, H, W)`` in [0, 1], RGB, to ``(N, D)``. Values are rounded to 256 levels.

    Cost: one request for every ``batch_size`` different images that are not in the cache. Threads may share
    it; each makes its own requests.

    Raises:
        ServiceError: no answer at the last attempt.
        RequestsUsedUp: more requests needed than are left; before the first of them.
        ValueError, TypeError: wrong answers: fewer embeddings than images, of another length than before, not
            finite; images of another size; a cache that is no such file.

    Warns:
        RuntimeWarning: a request has failed and is tried again.

    Example::

        >>> import torch
        >>> from captum_face import PairSimilarity
        >>> def request(images):  # stands for a call over the network
        ...     return [image.mean((0, 1)) for image in images]
        >>> service = RemoteEmbedding(request, name="mean colour 1.0", batch_size=8, max_requests=10)
        >>> PairSimilarity(service).embed(torch.rand(20, 3, 8, 8)).shape, service
        (torch.Size([20, 3]), RemoteEmbedding(mean colour 1.0, 3 requests of at most 10))
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of ``images`` ``(N, 3, H, W)``; without gradients."""
        pixels = as_pixels(images, input_size=self.input_size)
        rows = self._rows(pixels, [self._key(image) for image in pixels])
        return torch.from_numpy(rows).to(images.device, torch.promote_types(images.dtype, torch.float32))


class RemoteScore(_Service):
    """A service that compares two faces and tells only their score.

    It is a function of two image batches, ``CorrRISE(service).attribute((a, b))``, for methods that need
    scores alone. :func:`~captum_face.explain` and the command line need embeddings.

    Args:
        call: Your request: from a list of at most ``batch_size`` pairs of uint8 RGB arrays ``(H, W, 3)`` to
            one number for each, higher for more alike.
        name, batch_size, retries, backoff, timeout, max_requests, cache, input_size: see
            :class:`RemoteEmbedding`.

    Shape: two batches ``(N, 3, H, W)`` in [0, 1], RGB, one of which may have a single image, to ``(N,)``.

    Cost: one request for every ``batch_size`` different pairs that are not in the cache.

    Raises:
        See :class:`RemoteEmbedding`.

    Example::

        >>> import torch
        >>> def request(pairs):
        ...     return [-abs(float(a.mean()) - float(b.mean())) for a, b in pairs]
        >>> service = RemoteScore(request, name="brightness 1.0")
        >>> service(torch.rand(5, 3, 8, 8), torch.rand(1, 3, 8, 8)).shape
        torch.Size([5])
    """

    def __call__(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Scores ``(N,)``; without gradients."""
        a, b = (as_pixels(images, input_size=self.input_size) for images in (images_a, images_b))
        count = max(len(a), len(b))
        if {len(a), len(b)} - {1, count}:
            raise ValueError(f"expected batches of one length, or one of 1, got {len(a)} and {len(b)}")
        pairs = list(zip(a * (count // len(a)), b * (count // len(b)), strict=True))
        rows = self._rows(pairs, [self._key(*pair) for pair in pairs])
        return torch.from_numpy(rows[:, 0]).to(images_a.device)

    def _checked(self, answer: Any, count: int) -> NDArray[np.float32]:
        if isinstance(answer, Tensor):
            answer = answer.detach().cpu().numpy()
        values = np.asarray(answer, dtype=object)
        if values.shape == (count, 1):
            values = values[:, 0]
        if values.shape != (count,):
            raise ValueError(
                f"expected {count} score(s) from {self.name}, one for each pair, got {type(answer).__name__} "
                f"of the shape {values.shape}"
            )
        return super()._checked([[value] for value in values], count)


class _Cache:
    """Rows of float32 by key in a file of SQLite, which a killed process leaves whole."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        if not path.parent.is_dir():
            raise FileNotFoundError(f"expected cache= as a file in a folder that exists, got {path}")
        self._do("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, service TEXT, numbers BLOB)")

    def length(self) -> int | None:
        """How long the service's rows are; None where there is none."""
        found = self._do("SELECT length(numbers) FROM answers WHERE service = ? LIMIT 1", [(self.name,)])
        return found[0][0] // 4 if found else None

    def read(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        found = self._do("SELECT key, numbers FROM answers WHERE key = ?", [(key,) for key in set(keys)])
        return {key: np.frombuffer(numbers, "<f4") for key, numbers in found}

    def write(self, rows: dict[bytes, NDArray[np.float32]]) -> None:
        values = [(key, self.name, row.astype("<f4").tobytes()) for key, row in rows.items()]
        self._do("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", values)

    def _do(self, statement: str, values: Sequence[tuple[Any, ...]] = ((),)) -> list[Any]:
        # A connection each time: threads and processes share none, and SQLite lets one of them write.
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                return [row for value in values for row in connection.execute(statement, value)]
        except sqlite3.Error as error:
            raise ValueError(
                f"expected cache= as a file of earlier answers, or one that can be made, got {self.path} "
                f"({error}); give another file"
            ) from error
