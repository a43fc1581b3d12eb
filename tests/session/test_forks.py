"""What a forked process shares with its parent stays alive."""

from __future__ import annotations

import gc
import weakref

from gradient_async.session.forks import keep_for_ever


def test_what_is_kept_for_ever_is_not_collected() -> None:
    class Inherited:
        pass

    inherited = Inherited()
    reference = weakref.ref(inherited)
    keep_for_ever(inherited)
    del inherited
    gc.collect()
    assert reference() is not None
