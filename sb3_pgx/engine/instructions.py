"""
The vector instructions of compiled graphs: those of the processor, if the C++ compiler can build for them.

TorchInductor finds out once per process. It builds and loads up to ten small programs for that, which takes 1 to 5 s.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

# The compiler's option that leaves out the slowest of these programs.
TRUSTING = {"cpp.vec_isa_ok": True}


def trust_compiler() -> None:
    """
    Choose the instructions that torch sees in the processor, without a trial, unless they have been chosen before.

    The caller holds the compiler's lock. If this version of torch has other names, the trial takes place.
    """
    from torch._inductor import config, cpu_vec_isa

    with suppress(AttributeError), config.patch(TRUSTING):
        kind: Any = cpu_vec_isa.VecISA
        trial = kind.check_build
        kind.check_build = lambda instructions, code: True
        try:
            cpu_vec_isa.pick_vec_isa()
        finally:
            kind.check_build = trial


@contextmanager
def tried_instructions() -> Iterator[None]:
    """Open a context in which the instructions are those that a trial finds. They stay chosen if no error leaves it."""
    from torch._dynamo.convert_frame import compile_lock
    from torch._inductor import cpu_vec_isa

    _forget()
    with suppress(AttributeError), compile_lock:  # held twice by a helper, which gives it up once while the trial builds
        cpu_vec_isa.pick_vec_isa()
    try:
        yield
    except BaseException:
        _forget()
        raise


def _forget() -> None:
    """Let torch choose the instructions again: what it knows of them is in caches and in the listed objects."""
    from torch._inductor import cpu_vec_isa

    with suppress(AttributeError):
        listed: list[Any] = cpu_vec_isa.supported_vec_isa_list
        kinds = {kind for instructions in listed for kind in type(instructions).__mro__}
        for cached in (cpu_vec_isa.valid_vec_isa_list, *(member for kind in kinds for member in vars(kind).values())):
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        listed[:] = map(replace, listed)
