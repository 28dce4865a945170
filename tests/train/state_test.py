"""The rollouts' copy of the policy: made once a version, let go for training."""

import weakref

from arft_jax.train.state import RolloutPolicy, TrainState


def test_the_policy_is_made_once_for_each_version_and_anew_after_it_was_released():
    made, first, second = [], {"w": 1}, {"w": 1}
    policy = RolloutPolicy(lambda params: made.append(params) or [params])
    copy = policy(first)
    assert copy == [first] and policy(first) is copy and len(made) == 1
    assert policy(second) is not copy and made[1] is second
    policy.release()
    policy(second)
    assert len(made) == 3


def test_the_older_copy_is_let_go_before_the_next_is_made():
    class Copy:
        pass

    alive = weakref.WeakSet()

    def make(params):
        seen.append(len(alive))
        alive.add(copy := Copy())
        return copy

    seen, policy = [], RolloutPolicy(make)
    policy("first")
    policy("second")
    assert seen == [0, 0] and len(alive) == 1


def test_a_checkpoint_holds_the_arrays_of_the_state_by_these_names():
    state = TrainState("p", "o", None, 3)
    assert state.arrays() == {"params": "p", "opt_state": "o", "ref_params": None}
