"""Which namespaces allow a lossy transform of what is stored, and what their elements are.

A store knows namespaces by digest only. What a digest stands for never changes, so what was learned once holds for as
long as it is remembered; a namespace that is forgotten is learned again by the next session that has it.
"""

from __future__ import annotations

import enum

from penstock.actors.core.namespace import CANONICAL_ORDER, Attention, Namespace

NAMESPACES_MAX = 65536


class Element(enum.Enum):
    """What every element of every object of a namespace is."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class LossyNamespaces:
    """At most `namespaces_max` of them; those learned last are remembered."""

    def __init__(self, *, namespaces_max: int = NAMESPACES_MAX) -> None:
        self._namespaces_max = namespaces_max
        self._known: dict[bytes, tuple[str, Element]] = {}  # by digest; oldest first

    def learn(self, digest: bytes, namespace: Namespace) -> None:
        """What `digest` stands for, unless it stands for nothing lossy."""
        element = element_of(namespace)
        if not namespace.transform or element is None:
            return
        self._known.pop(digest, None)
        self._known[digest] = namespace.transform, element
        while len(self._known) > self._namespaces_max:
            del self._known[next(iter(self._known))]

    def element(self, digest: bytes, transform: str) -> Element | None:
        """None, unless this namespace names that transform, and all its elements are of one kind. Any thread."""
        transform_named, element = self._known.get(digest, ("", None))
        return element if transform_named == transform else None


def element_of(namespace: Namespace) -> Element | None:
    """None where objects hold more than one kind of element, or an order of bytes only their engine knows."""
    groups = namespace.groups
    dtypes = {group.dtype for group in groups}
    is_opaque = any(group.attention is Attention.RECURRENT for group in groups)
    if namespace.byte_order != CANONICAL_ORDER or is_opaque or len(dtypes) != 1:
        return None
    return {one.value: one for one in Element}.get(dtypes.pop())
