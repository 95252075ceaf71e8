"""What callbacks do at a step: they edit and read what is at hand."""

import copy

import numpy as np
import torch as th
from support.beside_sb3 import BOX, STEPS, OnRolloutEnd, OnStep, drifting, idiom


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_a_bonus_is_added_to_the_rewards_of_a_step(make):
    def bonus(callback):
        callback.locals["rewards"] += 0.5 * np.abs(callback.locals["new_obs"]).max(axis=1)

    return make().learn(STEPS, callback=OnStep(bonus))


@idiom("PPO", "A2C")
def test_rewards_of_a_step_are_clipped_in_place(make):
    def clip(callback):
        np.clip(callback.locals["rewards"], -0.2, 0.6, out=callback.locals["rewards"])

    return make(env=drifting(BOX)).learn(STEPS, callback=OnStep(clip))


@idiom(quick=True)
def test_actions_are_relabelled_after_the_step(make):
    """What is learned from is not what was played: the actions of a teacher."""

    def relabel(callback):
        callback.locals["actions"][:] = callback.locals["new_obs"][:, 0] > 0

    return make().learn(STEPS, callback=OnStep(relabel))


@idiom("A2C", "PPO")
def test_observations_to_come_are_disturbed_in_place(make):
    generator = np.random.default_rng(1)

    def disturb(callback):
        callback.locals["new_obs"] += generator.normal(0, 0.3, (2, 2)).astype(np.float32)

    return make().learn(STEPS, callback=OnStep(disturb))


@idiom("PPO", "A2C")
def test_observations_that_were_acted_on_are_changed_in_place(make):
    """In ``model._last_obs``, which holds them until the row is added to the buffer."""

    def change(callback):
        callback.model._last_obs[:, 1] = 0.0

    return make().learn(STEPS, callback=OnStep(change))


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO", quick=True)
def test_values_and_log_probabilities_of_a_step_are_read_and_used(make):
    seen = []

    def shape(callback):
        values, log_probs = callback.locals["values"], callback.locals["log_probs"]
        seen.append(np.concatenate([values.cpu().numpy().flatten(), log_probs.cpu().numpy()]))
        callback.locals["rewards"] -= 0.3 * log_probs.cpu().numpy() + 0.1 * th.flatten(values).cpu().numpy()

    model = make().learn(STEPS, callback=OnStep(shape))
    return model, seen


@idiom("PPO", "A2C")
def test_values_of_steps_are_kept_until_the_rollouts_end(make):
    """In the ways in which people handle tensors."""
    kept, seen = [], []

    def keep(callback):
        values, log_probs = callback.locals["values"], callback.locals["log_probs"]
        assert isinstance(values, th.Tensor) and isinstance(log_probs, th.Tensor) and not values.requires_grad
        kept.append(values)
        seen.append([float(values[0]), values.mean().item(), np.asarray(log_probs.cpu())[1], *log_probs.exp().tolist()])
        seen[-1] += [*values.squeeze(1).tolist(), (values.flatten() - log_probs).max().item(), len(values), *values.shape]

    class Keep(OnStep):
        def _on_rollout_end(self):
            baseline = th.stack(kept).squeeze(2).cpu().numpy()
            self.model.rollout_buffer.advantages = self.model.rollout_buffer.returns - 0.5 * baseline
            kept.clear()

    model = make().learn(STEPS, callback=Keep(keep))
    return model, seen


@idiom("PPO", "A2C")
def test_the_observation_that_was_acted_on_is_replaced(make):
    def replace(callback):
        callback.locals["new_obs"][callback.locals["dones"]] = 0.0
        callback.model._last_obs = 0.5 * callback.model._last_obs

    return make().learn(STEPS, callback=OnStep(replace))


@idiom("PPO")
def test_a_copy_of_the_buffer_is_iterated(make):
    """Demonstrations, kept for later: the original stays as it is."""
    rows = []

    def keep(callback):
        buffer = copy.deepcopy(callback.model.rollout_buffer)
        rows.append(buffer.swap_and_flatten(buffer.advantages).ravel().copy())
        samples = next(buffer.get(batch_size=4))
        rows[-1] = np.concatenate([rows[-1], samples.observations.cpu().ravel(), samples.old_log_prob.cpu()])
        buffer.reset()

    model = make().learn(STEPS, callback=OnRolloutEnd(keep))
    return model, rows


@idiom()
def test_the_buffer_is_read_while_it_fills(make):
    seen = []

    def read(callback):
        buffer = callback.model.rollout_buffer
        seen.append([buffer.pos, buffer.full, buffer.size(), *buffer.rewards.ravel(), *buffer.values.ravel()])
        seen[-1] += [*buffer.log_probs.ravel(), *buffer.episode_starts.ravel(), *buffer.actions.ravel()]
        seen[-1] += [*buffer.observations.ravel()]

    model = make().learn(STEPS, callback=OnStep(read))
    return model, seen


@idiom("PPO", "A2C")
def test_credit_is_given_back_to_rows_that_are_in_the_buffer(make):
    """When an episode ends badly, the rewards of the rows before are lowered."""

    def blame(callback):
        buffer = callback.model.rollout_buffer
        for i, done in enumerate(callback.locals["dones"]):
            if done and not callback.locals["infos"][i]["TimeLimit.truncated"]:
                buffer.rewards[max(0, buffer.pos - 3) : buffer.pos, i] -= 0.5

    return make().learn(STEPS, callback=OnStep(blame))


@idiom("PPO", "A2C")
def test_infos_and_dones_are_gathered(make):
    seen = []

    def gather(callback):
        distances = [info["distance"] for info in callback.locals["infos"]]
        seen.append([*distances, *callback.locals["dones"], *callback.locals["clipped_actions"], callback.num_timesteps])
        callback.logger.record("custom/distance", np.mean(distances))

    model = make().learn(STEPS, callback=OnStep(gather))
    return model, seen


@idiom("PPO", "RecurrentPPO")
def test_a_callback_stops_the_training_in_the_middle_of_a_rollout_and_another_one_begins(make):
    model = make()
    model.learn(STEPS, callback=OnStep(lambda callback: callback.num_timesteps < 26))
    stopped = model.num_timesteps
    model.learn(32)
    return model, stopped, model.num_timesteps


@idiom("A2C")
def test_a_plain_function_is_a_callback(make):
    return make().learn(STEPS, callback=lambda local_values, _: local_values["self"].num_timesteps < 40)
