"""ACER: one update on each new rollout, and several on replayed segments."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from sb3_pgx.algorithms.acer.batches import Batches
from sb3_pgx.algorithms.acer.objective import BOX_OBJECTIVE, DISCRETE_OBJECTIVE, Coefficients
from sb3_pgx.algorithms.acer.policies import ACERCnnPolicy, ACERMixin, ACERMultiInputPolicy, ACERPolicy
from sb3_pgx.algorithms.acer.record import RawTransitions, normalizes_last, record_of
from sb3_pgx.algorithms.acer.replay import SegmentReplay
from sb3_pgx.algorithms.acer.replay_files import load_replay, save_replay
from sb3_pgx.algorithms.acer.segments import Segments
from sb3_pgx.algorithms.rmsprop import RMSpropAlgorithm, with_rms_prop
from sb3_pgx.core.buffer_arrays import COLUMNS
from sb3_pgx.core.checks import (
    as_flag,
    check_choice,
    check_counts,
    check_finite_not_negative,
    check_unit_interval,
    is_number,
)
from sb3_pgx.core.errors import one_line, warn
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.rollout import CollectedRollout, EvaluatedRollout, Rollout
from sb3_pgx.core.schedules import MAX_FLOAT32
from sb3_pgx.core.search_space import ENTROPY, GAMMA, Categorical, Dimension, Real, Scheduled, Whole
from sb3_pgx.core.tensors import flatten
from sb3_pgx.core.undo import state_of
from sb3_pgx.engine import Follower, Objective
from sb3_pgx.engine.layers import Modules
from sb3_pgx.stages.algorithm import ceil_div
from sb3_pgx.stages.report import Metrics

TrustRegionStatistics = Literal["probs", "logits"]

MAX_REPLAY_RATIO = 1_000_000
# Bytes of the batches that are drawn per call. More would save calls, but leave the processor's caches.
DRAWN_AT_ONCE = 1_000_000

LARGE = 1e6  # numbers below it have squares far below the largest float32


class ACER(RMSpropAlgorithm):
    """
    Actor-critic with experience replay (Wang et al., 2017), for Discrete and Box actions.

    Each rollout goes into the replay memory. With Discrete actions it is also learned from once, immediately. Then a
    Poisson-distributed number of updates follows, each on ``replay_batch`` segments from the memory. Targets are Retrace's;
    importance weights are truncated and the resulting bias is corrected; each row's policy gradient is projected onto a trust
    region around an average policy.

    With Discrete actions the critic is Q(s, ·). With Box actions it is a stochastic dueling network, the standard deviation is
    fixed (``policy_kwargs=dict(log_std_init=…, learn_std=…)``), and learning uses the memory alone, as in the paper.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a class
        derived from :class:`~sb3_pgx.algorithms.acer.policies.ACERMixin`
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the optimizer. Typical: 1e-4 to 1e-3. Larger values learn faster until updates become
        unstable. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_7e-4"``
    :param n_steps: steps per environment and rollout, and the length of a replayed segment. Typical: 20 (Discrete) to 50
        (Box). Larger values give longer returns and fewer updates per environment step (Wang et al., 2017, §4 and §6)
    :param buffer_size: transitions that the memory holds, over all environments. Typical: 5,000 to 1,000,000. Larger values
        forget later, need more memory and replay older policies' data
    :param replay_start: transitions in the memory before replay starts. Typical: 1,000 to 10,000. Larger values replay more
        diverse data at first, and start later
    :param replay_batch: segments per replayed update; ``None``: one per environment. Typical: ``None``, or 4 to 32. Larger
        values give less noisy, slower updates
    :param replay_ratio: mean number of replayed updates per rollout. Typical: 4 to 8; 0 keeps no memory. Larger values need
        fewer environment steps and more computation (Wang et al., 2017, §4)
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param importance_clip: c > 0, at which importance weights are truncated. Typical: 5 to 10; ``math.inf`` never truncates.
        Smaller values give less variance and rely more on the critic, through the bias correction (Wang et al., 2017, §3.2)
    :param trust_region: project the policy's gradient onto the trust region (Wang et al., 2017, eq. 12)
    :param trust_region_delta: δ ≥ 0, largest rate at which one row's gradient may move the policy away from the average
        policy, in nats per unit step. Typical: 0.1 to 2. Larger values constrain less. It scales with the advantages: with
        normalised rewards and Box actions, 1 is hardly ever reached
    :param average_coef: α of the average policy, θ_a ← α θ_a + (1 − α) θ after every update, in [0, 1]. Typical: 0.99 to
        0.995. Larger values make the average follow more slowly, which constrains the policy more (Wang et al., 2017, §3.3)
    :param q_coef: weight of the critic's loss. Typical: 0.25 to 1. Larger values train the critic harder. A number, a schedule
        or a string
    :param ent_coef: weight of the entropy (in nats), whose gradient is added outside of the trust region. Typical: 0 to 0.01.
        Larger values keep the policy more random. A number, a schedule or a string
    :param max_grad_norm: largest L2 norm of the gradient, which is scaled down to it. Typical: 10 to 40. Smaller values damp
        outliers; under Adam and RMSprop, a limit that is always active changes little. ``None`` disables clipping
    :param rms_prop_eps: ε that RMSprop adds to the root mean square of the gradient. Typical: 1e-8 to 1e-3. Larger values
        shorten the steps of parameters with small gradients
    :param use_rms_prop: use RMSprop, as the paper does (Wang et al., 2017, §4), instead of Adam
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``, which compiles if the run is long
        enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :param on_policy_update: also learn from each rollout immediately; ``None``: only with Discrete actions
    :param trust_region_statistics: Discrete: space φ of the trust region. ``"probs"`` is the paper's; in ``"logits"`` the same
        δ is reached much later
    :param n_dueling_samples: Box: actions over which the dueling network averages the advantage. Typical: 5. Larger values
        give a less noisy critic and slower updates (Wang et al., 2017, §5)
    :raises ValueError: an argument is invalid
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ACERPolicy,
        "CnnPolicy": ACERCnnPolicy,
        "MultiInputPolicy": ACERMultiInputPolicy,
    }
    refuses_memory: ClassVar[str | None] = (
        "ACER replays old rollouts, and the states of a recurrent policy that are stored with them are stale"
    )
    refuses_all_reduce: ClassVar[str | None] = "ACER's processes would replay different segments, of different lengths"
    policy: ACERMixin
    average_policy: ACERMixin
    replay_buffer: SegmentReplay
    replay_generator: np.random.Generator  # draws how often to replay and which segments; saved with the model
    _final_masks: Sequence[np.ndarray] = ()  # of the current rollout's final observations, [A] each
    _raw: RawTransitions | None = None  # of the current rollout, before VecNormalize

    search_space: ClassVar[tuple[Dimension, ...]] = (
        Scheduled("learning_rate", 1e-4, 1e-2),
        Whole("n_steps", 5, 100, log=True),
        GAMMA,
        ENTROPY,
        Real("max_grad_norm", 0.3, 20.0),
        Whole("replay_ratio", 1, 8),
        Categorical("replay_batch", (None, 16, 32, 64)),
        Real("q_coef", 0.1, 20.0),
        Real("importance_clip", 0.1, 20.0),
        Real("trust_region_delta", 1e-3, 3.0),
        Real("average_coef", 1e-3, 0.1, complement=True),
        Categorical("use_rms_prop", (True, False)),
    )
    refuses_gaps: ClassVar[str | None] = "ACER replays whole segments"
    examination: ClassVar[Examination] = Examination(
        2560, 0.02, dict(n_steps=8, buffer_size=4096, replay_start=128, ent_coef=0.0, use_rms_prop=False)
    )

    def __init__(
        self,
        policy: str | type[ACERMixin],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 7e-4,
        n_steps: int = 20,
        buffer_size: int = 50_000,
        replay_start: int = 1_000,
        replay_batch: int | None = None,
        replay_ratio: float = 4.0,
        gamma: float = 0.99,
        importance_clip: float = 10.0,
        trust_region: bool = True,
        trust_region_delta: float = 1.0,
        average_coef: float = 0.99,
        q_coef: float | str | Schedule = 0.5,
        ent_coef: float | str | Schedule = 0.01,
        max_grad_norm: float | None = 10.0,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
        on_policy_update: bool | None = None,
        trust_region_statistics: TrustRegionStatistics = "probs",
        n_dueling_samples: int = 5,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=with_rms_prop(policy_kwargs, use_rms_prop, rms_prop_eps),
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        self.buffer_size, self.replay_start = buffer_size, replay_start
        self.replay_batch, self.replay_ratio = replay_batch, replay_ratio
        self.importance_clip = importance_clip
        self.trust_region, self.trust_region_delta = trust_region, trust_region_delta
        self.trust_region_statistics = trust_region_statistics
        self.average_coef = average_coef
        self.q_coef = q_coef
        self.on_policy_update = on_policy_update
        self.n_dueling_samples = n_dueling_samples
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------------------------------------ set up

    @property
    def objective(self) -> Objective:  # type: ignore[override]
        """Return the loss for the action space."""
        return DISCRETE_OBJECTIVE if isinstance(self.action_space, spaces.Discrete) else BOX_OBJECTIVE

    @property
    def learns_on_policy(self) -> bool:
        """Return whether each new rollout is learned from immediately."""
        return isinstance(self.action_space, spaces.Discrete) if self.on_policy_update is None else self.on_policy_update

    def check_arguments(self) -> None:
        """
        Check the arguments and spaces.

        :raises ValueError: an argument is invalid, or ACER cannot act in the action space
        """
        super().check_arguments()
        if not isinstance(self.action_space, spaces.Discrete | spaces.Box):
            raise ValueError(
                f"ACER cannot act in {one_line(self.action_space)}: it supports only Discrete and Box actions, because "
                "several choices at once have too many combinations for a Q-value each. Use PPO, A2C or TRPO, or turn the "
                "choices into one Discrete choice."
            )
        if not (isinstance(self.policy_class, type) and issubclass(self.policy_class, ACERMixin)):
            name = getattr(self.policy_class, "__name__", self.policy_class)
            raise ValueError(
                f"ACER needs an action-value critic, but {name} has only V(s): derive it from "
                "sb3_pgx.algorithms.acer.policies.ACERPolicy."
            )
        check_counts(n_steps=self.n_steps, buffer_size=self.buffer_size, n_dueling_samples=self.n_dueling_samples)
        if self.replay_batch is not None:
            check_counts(replay_batch=self.replay_batch)
        check_finite_not_negative(replay_start=self.replay_start, replay_ratio=self.replay_ratio)
        if self.replay_ratio > MAX_REPLAY_RATIO:
            raise ValueError(
                f"replay_ratio={self.replay_ratio} must be at most {MAX_REPLAY_RATIO:,}: an update would never end"
            )
        if not is_number(self.importance_clip) or not (
            0 < self.importance_clip <= MAX_FLOAT32 or self.importance_clip == math.inf
        ):
            raise ValueError(f"importance_clip={self.importance_clip!r} must be a positive number; math.inf never truncates")
        if not is_number(self.trust_region_delta) or not self.trust_region_delta >= 0:
            raise ValueError(
                f"trust_region_delta={self.trust_region_delta!r} must not be negative; trust_region=False turns it off"
            )
        check_choice(get_args(TrustRegionStatistics), trust_region_statistics=self.trust_region_statistics)
        check_unit_interval(average_coef=self.average_coef)
        for name in ("ent_coef", "q_coef"):
            self.coefficient(name)
        self.trust_region = as_flag("trust_region", self.trust_region)
        if self.on_policy_update is not None:
            self.on_policy_update = as_flag("on_policy_update", self.on_policy_update)
        if self.policy_kwargs.get("use_sde"):
            raise ValueError("ACER needs the density of each action, which gSDE does not provide: remove use_sde")
        self._check_learns()

    def _check_learns(self) -> None:
        if self.replay_ratio == 0 and not self.learns_on_policy:
            raise ValueError(
                "replay_ratio=0 leaves nothing to learn from: with Box actions, ACER learns only from the memory unless "
                "on_policy_update=True"
            )

    def _setup_model(self) -> None:
        known = [vars(self).get(name) for name in ("replay_generator", "_generator_seed")]  # of a loaded model
        super()._setup_model()
        if known[0] is not None and known[1] == self.seed:
            self.replay_generator = known[0]
        self._restart_average()
        self._average_modules = Modules()
        self._batches = Batches(self.action_space, self.device)
        self.replay_buffer = SegmentReplay(
            self.buffer_size, self.n_steps, self.observation_space, self.action_space, self.n_envs
        )
        self._check_replay_starts(self.replay_buffer)

    def _check_replay_starts(self, replay: SegmentReplay) -> None:
        held = replay.max_steps * replay.n_envs
        if self.replay_start > held:
            raise ValueError(
                f"replay_start={self.replay_start} is never reached: the memory holds {held} transitions of {replay.n_envs} "
                "environments. Lower replay_start, or raise buffer_size"
            )

    def _restart_average(self) -> None:
        """Reset the average policy to the policy, in place if possible, because compiled graphs refer to the object."""
        if self._average_fits():
            self.average_policy.load_state_dict(self.policy.state_dict())
            return
        self.average_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self.average_policy.set_training_mode(False)

    def _average_fits(self) -> bool:
        """Return whether the average policy has the same layers as the policy."""
        if not hasattr(self, "average_policy"):
            return False
        policies = (self.policy, self.average_policy)
        one, other = ([(n, x.shape, x.dtype, x.device) for n, x in p.state_dict().items()] for p in policies)
        return one == other

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto") -> None:
        """
        Set parameters as SB3 does. If they include a policy but no average policy, the average restarts at that policy.

        :param load_path_or_dict: a saved model (file or path), or a dictionary of state dictionaries by name
        :param exact_match: whether all parameters must be given
        :param device: device to load to
        """
        super().set_parameters(load_path_or_dict, exact_match, device)
        given = load_path_or_dict if isinstance(load_path_or_dict, dict) else ()
        if "policy" in given and "average_policy" not in given:
            self._restart_average()

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed as SB3 does, and seed the generator that draws replayed segments.

        :param seed: a whole number; ``None`` draws one from NumPy's global generator
        """
        super().set_random_seed(seed)
        self.replay_generator = np.random.default_rng(np.random.randint(2**31) if seed is None else seed)
        self._generator_seed = seed

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "replay_buffer", "_raw", "_final_masks", "_average_modules", "_batches"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "average_policy"], tensors

    def save_replay_buffer(self, path: Any) -> None:
        """
        Save the replay memory, which :meth:`save` leaves out. An existing file is replaced only when the new one is complete.

        :param path: file, or its path
        :raises OSError: the file cannot be written; the message names the path
        """
        save_replay(path, self.replay_buffer)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """
        Replace the replay memory by a saved one. This unpickles the file, which runs whatever code its author put there: load
        only files from people you trust.

        :param path: file, or its path
        :param truncate_last_traj: for compatibility with SB3, without effect: an episode that does not continue is always cut
        :raises ValueError: the saved memory belongs to other environments or another number of them, or is too small for
            ``n_steps`` or ``replay_start``; the model keeps its own
        """
        replay = load_replay(path)
        replay.check_fits(self.observation_space, self.action_space, self.n_envs, self.n_steps)
        self._check_replay_starts(replay)
        replay.segment_length = self.n_steps
        self.replay_buffer = replay

    @property
    def refuses_rows(self) -> str | None:
        """Why the algorithm cannot learn from rows that a caller adds to the buffer."""
        return "ACER learns from segments of its memory, and from the action distributions of the rollout"

    refuses_buffers = refuses_rows

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Arrays of the rollout buffer that ACER does not learn from: all of them, since it learns from its memory."""
        return COLUMNS

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return the expected number of gradient steps in a run, on-policy and replayed ones together."""
        return int(ceil_div(timesteps, self.n_steps * self.n_envs) * (self.learns_on_policy + self.replay_ratio))

    # ------------------------------------------------------------------------------------------------ collect

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> bool:
        """Collect a rollout and add it to the memory, after callbacks have seen its end. Arguments are the base class's."""
        normalize = self._vec_normalize_env
        raw = normalize is not None and normalizes_last(self.env, normalize)
        self._raw = RawTransitions(normalize, self.observation_space) if raw and normalize is not None else None
        self._final_masks = []
        if not super().collect_rollouts(env, *args, **kwargs):
            return False
        if self.replay_ratio > 0:
            self._undo.add(self.replay_buffer.add(record_of(self.last_rollout, self._raw), raw=self._raw is not None))
        return True

    def after_step(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Keep the raw data of the step, if ``VecNormalize`` is the outermost wrapper, and the masks of final observations."""
        if self._raw is not None:
            self._raw.add(dones, infos)
        if self._action_masks is not None:
            truncated = [i for i in dones.nonzero()[0].tolist() if infos[i].get("TimeLimit.truncated", False)]
            self._final_masks = [*self._final_masks, *(self._action_masks.of_final(infos[i], i) for i in truncated)]

    def evaluate(self, rollout: CollectedRollout) -> EvaluatedRollout:
        """
        Evaluate a rollout, see the base class. V(s) = Σ_a π(a|s) Q(s, a) depends on the masks.

        :param rollout: as collected
        """
        if self._action_masks is not None and rollout.action_masks is not None:
            last = self._action_masks(self._last_obs, len(rollout.rewards))
            rollout.last_masks = th.from_numpy(last).to(self.device)
            if self._final_masks:
                rollout.final_masks = th.from_numpy(np.stack(self._final_masks)).to(self.device)
        return super().evaluate(rollout)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        held, raw = self.replay_buffer.raw, normalizes_last(self.env, self._vec_normalize_env)
        if held is not None and held != raw:
            was, now = ("before VecNormalize" if before else "without VecNormalize, or after it" for before in (held, raw))
            raise ValueError(
                f"the memory holds {self.replay_buffer.size} transitions stored {was}, and new ones would be "
                f"stored {now}: wrap the environment as before, or empty the memory with model.replay_buffer.reset()"
            )
        if not self._average_fits():
            self._restart_average()  # the model was given another policy
        if self._vec_normalize_env is not None and not raw and self.replay_ratio > 0:
            warn(
                f"{type(self.env).__name__} wraps VecNormalize: the memory keeps transitions as they were normalised when "
                "they were collected. With VecNormalize as the outermost wrapper they are normalised when replayed."
            )
        return super()._setup_learn(*args, **kwargs)

    def _find_action_masks(self) -> None:
        super()._find_action_masks()
        self.replay_buffer.check_masked(self._action_masks is not None)

    # ------------------------------------------------------------------------------------------------ update

    def tensors_in(self, module: nn.Module) -> list[Tensor]:
        if module is not self.average_policy:
            return super().tensors_in(module)
        self._average_modules.look(self.average_policy)  # in a third of the time
        return self._average_modules.tensors()

    def follower(self) -> Follower:
        """Return the average policy, which follows the trained one."""
        self._average_modules.look(self.average_policy)
        return Follower(self.average_policy, self._average_modules, self._modules)

    def update(self, rollout: Rollout) -> Metrics:
        """
        Learn from the new rollout, if the algorithm does so, and from a random number of batches of the memory.

        :param rollout: evaluated rollout
        :return: metrics to log, without the prefix ``train/``
        """
        self._check_learns()
        self._undo.add(state_of(self.replay_generator))
        c = Coefficients(
            gamma=self.gamma,
            importance_clip=self.importance_clip,
            trust_region=self.trust_region,
            trust_region_delta=self.trust_region_delta,
            q_coef=self.coefficient("q_coef"),
            ent_coef=self.coefficient("ent_coef"),
            in_logits=self.trust_region_statistics == "logits",
            with_std=self.policy.learns_std,
            average_coef=self.average_coef,
        )
        measured: list[tuple[Metrics, int]] = []
        if self.learns_on_policy:
            measured.append(self._learn([[self.segments_of(rollout)]], rollout.rewards.numel(), c))
        elif is_large(rollout):
            self._check_learnable(rollout, c)
        replayed = self.number_of_replays()
        if replayed:
            rows = self.replay_buffer.segment_length * self._replay_batch
            measured.append(self._learn(self.replayed_segments(replayed), rows, c))
        metrics = _together(measured) if measured else {}
        return {**metrics, "replay_updates": float(replayed), "explained_variance": self.explained_variance(), **self.spread()}

    @property
    def _replay_batch(self) -> int:
        return self.replay_batch or self.n_envs

    def _learn(self, epochs: Iterable[list[Segments]], rows: int, c: Coefficients) -> tuple[Metrics, int]:
        """
        Take one gradient step per batch.

        :param epochs: yields lists of batches, which bounds the peak memory
        :param rows: rows of each batch
        :param c: coefficients of this update
        :return: mean metrics, and the number of steps
        """
        with self.gradient_steps(c, rows, one_by_one=True) as steps:
            try:
                for batches in epochs:
                    steps.epoch(batches)
            finally:
                self._n_updates += steps.taken
        return {**steps.means(), "ratio_max": steps.largest("ratio_max")}, steps.taken

    def _check_learnable(self, rollout: Rollout, c: Coefficients) -> None:
        """
        Check that a gradient step on this rollout would succeed, before the memory keeps it.

        :raises Refusal: the step would be refused; from the memory, the rollout would make one update after another fail
        """
        with self.gradient_steps(c, rollout.rewards.numel(), one_by_one=True) as steps:
            steps.check(self.segments_of(rollout))

    def number_of_replays(self) -> int:
        """Draw the number of replayed updates after a rollout: Poisson-distributed, 0 until the memory holds enough."""
        started = self.replay_ratio > 0 and self.replay_buffer.size >= self.replay_start
        return int(self.replay_generator.poisson(self.replay_ratio)) if started else 0

    def segments_of(self, rollout: Rollout) -> Segments:
        """Return a rollout as a batch of segments, one per environment, as :attr:`objective` takes it."""
        return self._batches.of_rollout(rollout, self.n_dueling_samples)

    def replayed_segments(self, n_batches: int) -> Iterator[list[Segments]]:
        """Yield lists of batches of segments from the memory, of ``DRAWN_AT_ONCE`` bytes per list or one batch."""
        at_once = max(DRAWN_AT_ONCE // max(self._replay_batch * self.replay_buffer.segment_bytes, 1), 1)
        for start in range(0, n_batches, at_once):
            size = min(at_once, n_batches - start), self._replay_batch
            sample = self.replay_buffer.sample(size, self.replay_generator)
            normalize = self._vec_normalize_env if self.replay_buffer.raw else None
            assert normalize is not None or not self.replay_buffer.raw, "checked when learn started"
            yield self._batches.of_sample(sample, normalize, self.n_dueling_samples)


def is_large(rollout: Rollout) -> bool:
    """Return whether a rollout has numbers so large that a gradient might overflow."""
    numbers = [rollout.rewards, rollout.values, rollout.next_values]
    for seen in (rollout.observations, rollout.last_observations, rollout.final_observations):
        numbers += seen.values() if isinstance(seen, dict) else [] if seen is None else [seen]
    return not flatten([x for x in numbers if x.is_floating_point()]).abs().max().item() <= LARGE  # or NaN


def _together(parts: list[tuple[Metrics, int]]) -> Metrics:
    """Combine metrics of several groups of updates, each with its number of updates."""
    if len(parts) == 1:
        return parts[0][0]
    total = sum(n for _, n in parts)
    means = {name: sum(n * metrics[name] for metrics, n in parts) / total for name in parts[0][0]}
    return {**means, "ratio_max": max(metrics["ratio_max"] for metrics, _ in parts)}
