"""Errors of bundles, imports, the store and deliveries; each names the thing at fault."""

from __future__ import annotations


class ArtifactError(Exception):
    """The base of every error in this package."""


class BundleError(ArtifactError):
    """A bundle that must not serve.

    Attributes:
        file: The file of the bundle that is wrong.
        reason: What is wrong with it.
    """

    exit_code = 2  # trying again does not mend it

    def __init__(self, *, file: str, reason: str) -> None:
        super().__init__(f"bundle file {file}: {reason}")
        self.file = file
        self.reason = reason


class BundleFormatError(BundleError):
    """A file cannot be read as what it must be."""


class BundlePathError(BundleError):
    """A file is not a plain file of the bundle's own folder."""


class BundleFileMissingError(BundleError):
    """A file that the index names is not there."""

    def __init__(self, *, file: str, where: str, folder: bool = True) -> None:
        reason = f"is missing from {where}; fetch the bundle again"
        if not folder:
            reason = f"is missing: {where} is no folder; check the path"
        super().__init__(file=file, reason=reason)
        self.where = where


class BundleDigestError(BundleError):
    """Bytes that are not those that were published.

    Attributes:
        expected: The digest that the index gives.
        found: The digest of the bytes.
    """

    def __init__(self, *, file: str, expected: str, found: str) -> None:
        super().__init__(
            file=file,
            reason=f"has SHA-256 {found[:16]}…, expected {expected[:16]}…; it is damaged or was "
            "changed; delete the bundle and fetch it again",
        )
        self.expected = expected
        self.found = found


class BundleLimitError(BundleError):
    """Something is larger than anything this framework would make.

    Attributes:
        size: Its size in bytes (or items).
        limit: The largest that is accepted.
    """

    def __init__(
        self,
        *,
        file: str,
        size: int,
        limit: int,
        what: str = "bytes",
        says: str = "that Limits allows",
    ) -> None:
        super().__init__(file=file, reason=f"has {size} {what}, more than the {limit} {says}")
        self.size = size
        self.limit = limit


class BundleTensorError(BundleError):
    """A weight does not fit the graph, or is no number.

    Attributes:
        tensor: Name of the tensor.
    """

    def __init__(self, *, file: str, tensor: str, reason: str) -> None:
        super().__init__(file=file, reason=f"tensor {tensor!r} {reason}")
        self.tensor = tensor


class PatchError(ArtifactError):
    """A weight update does not fit the weights that it is for.

    Attributes:
        tensor: The tensor at fault, empty where it is the patch as a whole.
        reason: What does not fit.
    """

    def __init__(self, *, reason: str, tensor: str = "") -> None:
        super().__init__(f"weight update{f' of {tensor!r}' if tensor else ''}: {reason}")
        self.tensor = tensor
        self.reason = reason


class ImportRefusedError(ArtifactError):
    """A model file that cannot become a bundle.

    Attributes:
        path: The file.
        reason: Why, and the way out.
    """

    exit_code = 2

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"cannot import {path}: {reason}")
        self.path = path
        self.reason = reason


class UnsupportedOperatorError(ImportRefusedError):
    """A graph that can be served but not trained.

    Attributes:
        detail: The operators at fault, by name.
    """

    def __init__(self, *, path: str, detail: str) -> None:
        super().__init__(
            path=path,
            reason=f"it can be served but not trained: {detail}; import it with --serve-only to "
            "serve it as it is, without retraining (every reason: edgebus --debug)",
        )
        self.detail = detail


class StoreError(ArtifactError):
    """The store cannot do what was asked."""


class BlobMissingError(StoreError):
    """The store does not have a blob.

    Attributes:
        digest: Its SHA-256.
    """

    def __init__(self, *, digest: str) -> None:
        super().__init__(f"the store has no {digest[:16]}…; fetch its bundle first")
        self.digest = digest


class QuotaExceededError(StoreError):
    """The store is full.

    Attributes:
        needed: Bytes that were to be added.
        used: Bytes that lie in the store.
        quota: Bytes that may lie there.
    """

    def __init__(self, *, needed: int, used: int, quota: int) -> None:
        super().__init__(
            f"{needed} bytes do not fit: {used} of {quota} are used; raise the quota or let "
            "gc() drop versions that nobody serves"
        )
        self.needed = needed
        self.used = used
        self.quota = quota


class DeliveryError(ArtifactError):
    """A delivery that no repetition can mend; the release itself is wrong.

    Attributes:
        digest: The bundle that was to be delivered.
        reason: Why it cannot be.
    """

    def __init__(self, *, digest: str, reason: str) -> None:
        super().__init__(f"delivery of bundle {digest[:16]}…: {reason}")
        self.digest = digest
        self.reason = reason
