"""The device's side of a rollout: the state of the slots and the compiled programs that change it."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from arft_jax.rollout.request import RolloutLimits
from arft_jax.sharding import Placement
from arft_jax.steps.sampler import DecodeReport, Extension, RowSampling, Rules, Sampler, UnstackedParams, column_counts
from arft_jax.steps.state import FREE, RUNNING, SlotState


class SlotMachine:
    """Owns the sampler's device state: nothing else assigns it, and every program call replaces it.

    Calls are dispatched and not waited for.

    Args:
      sampler: the compiled programs.
      state: all slots free.
      rules: stop automaton and banned tokens, on the device.
      limits: sizes and budgets; the sizes are those of ``state``.
      placement: the mesh over which params and state are split; None: one device.
      bucket_columns: decode and extend read the cache up to the next multiple of so many columns that holds their rows,
        so that short rows do not pay for long ones: one program a multiple, all compiled before the first rollout. 0:
        always the whole cache.

    Raises:
      ValueError: sizes that are not those of the state, or a negative number of columns.
    """

    def __init__(
        self,
        sampler: Sampler,
        state: SlotState,
        rules: Rules,
        limits: RolloutLimits,
        placement: Placement | None = None,
        *,
        bucket_columns: int = 0,
    ):
        if bucket_columns < 0:
            raise ValueError(f"bucket_columns must be at least 0: got {bucket_columns} (config.rollout.bucket_columns)")
        made = (*state.tokens.shape, state.features.shape[0])
        if made != (limits.n_slots, limits.max_tokens, limits.n_features):
            raise ValueError(
                f"slots must be made in the sizes of the limits: got {made[0]} slots of {made[1]} tokens and {made[2]} "
                f"feature rows, n_slots={limits.n_slots}, max_tokens={limits.max_tokens}, "
                f"n_features={limits.n_features} (config.rollout)"
            )
        self.n_lanes, self._whole = (1, None) if placement is None else (placement.n_lanes, placement.whole)
        self.sampler, self.rules, self.limits, self._bucket_columns = sampler, rules, limits, bucket_columns
        self._state = state
        self._warm: set[tuple[str | float | None, int | None]] = set()

    @property
    def state(self) -> SlotState:
        """As it is now; the next program call consumes it."""
        return self._state

    @property
    def decode_steps(self) -> int:
        """Tokens that a decode call adds to a row at most."""
        return self.sampler.decode_steps

    @property
    def fork_rows(self) -> int:
        """Rows that one fork call can fill."""
        return max(self.limits.group_size - 1, 1)

    def obey(self, rules: Rules) -> None:
        """Decoding follows other rules from now on; where their shapes differ, it is traced again."""
        self.rules = rules

    def put(self, arrays):
        """Host arrays on every device."""
        return jax.device_put(arrays, self._whole)

    def columns_for(self, length: int) -> int | None:
        """How much of the cache a call reads that reaches ``length``; None: all.

        Example: bucket_columns 128, max_tokens 320: 128 for 1 .. 128, 256 for 129 .. 256, 320 beyond.
        """
        size = self._bucket_columns
        return min(-(-length // size) * size, self.limits.max_tokens) if size else None

    def read(self, params):
        """Per-layer copies of the weights if the KV cache is unstacked; otherwise ``params`` unchanged."""
        if self._state.cache.is_unstacked and not isinstance(params, UnstackedParams):
            return self.sampler.unstack(params)
        return params

    def warm_up(self, params, temperature: float | None) -> None:
        """Compiles decode and extend for every number of columns, where there are several; changes no row.

        Args:
          params: the policy.
          temperature: 0 is greedy; None: each slot has its own.
        """
        if not self._bucket_columns:
            return
        how = temperature
        if temperature is None:
            how = self.put(RowSampling(*np.ones((2, self.limits.n_slots), np.float32)))
        keys = self.put(np.zeros((self.limits.n_slots, 2), np.uint32))
        for columns in column_counts(self._bucket_columns, self.limits.max_tokens):
            if ("extend", columns) not in self._warm:
                nothing = self.put(self.empty_extension())
                self._state = self.sampler.extend(params, self._state, nothing, columns=columns)
            if (temperature, columns) not in self._warm:  # no row runs: the loop ends at once
                self._decode(params, keys, how, columns)
            self._warm |= {("extend", columns), (temperature, columns)}

    def encode(self, params, patches: np.ndarray, layout, feature_rows: np.ndarray) -> None:
        """Runs the vision tower over one chunk of packed patches a lane.

        Args:
          params: the policy.
          patches: float32[n_lanes, n_patches, patch_dim].
          layout: of the chunks, arrays with the leading axis of ``patches``.
          feature_rows: int32[n_lanes * n], where the i-th feature of all chunks goes; ``n_features``: nowhere.
        """
        self._state = self.sampler.encode(params, self._state, *self.put((patches, layout, feature_rows)))

    def empty_extension(self) -> Extension:
        """An extension of no row, for the caller to fill."""
        r, c = self.limits.extend_rows, self.limits.extend_chunk
        return Extension(
            slots=np.full(r, self.limits.n_slots, np.int32),
            tokens=np.zeros((r, c), np.int32),
            n=np.zeros(r, np.int32),
            start=np.zeros(r, np.int32),
            positions=np.zeros((r, 3, c), np.int32),
            feature_index=np.full((r, c), -1, np.int32),
            final=np.zeros(r, bool),
            next_position=np.zeros(r, np.int32),
            limit=np.zeros(r, np.int32),
            task=np.zeros(r, np.int32),
            row=np.zeros(r, np.int32),
        )

    def extend(self, params, extension: Extension, length: int) -> None:
        """Feeds a chunk to each of several slots; none of them gets longer than ``length`` by it."""
        columns = self.columns_for(length)
        self._state = self.sampler.extend(params, self._state, self.put(extension), columns=columns)

    def fork(self, source: int, targets: Sequence[int], rows: Sequence[int], begin: np.ndarray) -> None:
        """Copies what a slot begins with into other slots.

        Args:
          source: the slot.
          targets: :attr:`fork_rows` slots at most.
          rows: of the group, for each target.
          begin: int32[3]: the targets' length, next position and limit.
        """
        n = len(targets)
        slots, numbers = np.full(self.fork_rows, self.limits.n_slots, np.int32), np.zeros(self.fork_rows, np.int32)
        slots[:n], numbers[:n] = targets, rows
        self._state = self.sampler.fork(self._state, *self.put((np.int32(source), slots, numbers, begin)))

    def decode(self, params, keys: jax.Array, temperature: float | RowSampling, length: int) -> DecodeReport:
        """Samples on in every running row.

        Args:
          params: the policy.
          keys: uint32[n_slots, 2] on the devices, by slot.
          temperature: of all slots, or of each; 0 is greedy.
          length: no row gets longer by this call.

        Returns:
          What was sampled, on the device.
        """
        return self._decode(params, keys, temperature, self.columns_for(length))

    def _decode(self, params, keys: jax.Array, how: float | RowSampling, columns: int | None) -> DecodeReport:
        decode = self.sampler.decode_each if isinstance(how, RowSampling) else self.sampler.decode
        self._state, report = decode(params, self._state, self.rules, keys, how, columns=columns)
        return report

    def set_running(self, slots: Iterable[int]) -> None:
        """Lets these slots run and no other, by the host's word.

        The status is put where the state's own lies, so that no program is traced again.
        """
        old = self._state.status
        status = np.full(old.shape, FREE, np.int32)
        status[list(slots)] = RUNNING
        self._state = self._state._replace(status=jax.device_put(status, old.sharding))

    def free_all(self) -> None:
        """Lets no slot run."""
        self.set_running(())

    def wait(self) -> None:
        """Waits until the devices have done all that was dispatched."""
        jax.block_until_ready(self._state.length)
