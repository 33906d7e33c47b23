"""What LambdaLayer and LambdaConv share: projections, norms, masks, content."""

import math

import keras
import numpy as np
from keras import ops

from lambda_keras import functional
from lambda_keras.checks import check_choice
from lambda_keras.checks import check_divisible
from lambda_keras.checks import check_input_shape
from lambda_keras.checks import check_positive_integers
from lambda_keras.checks import check_relation
from lambda_keras.content import SequenceState
from lambda_keras.content import apply_content
from lambda_keras.content import compute_content_weights
from lambda_keras.content import push_step
from lambda_keras.content import start_sequence
from lambda_keras.content import step_content
from lambda_keras.contraction import offsets
from lambda_keras.contraction.orders import ORDERS
from lambda_keras.contraction.orders import contract_position_lambdas
from lambda_keras.functional import find_sizes
from lambda_keras.functional import flatten_grid
from lambda_keras.functional import widen_dtype
from lambda_keras.normalization import Untracked
from lambda_keras.normalization import make_normalization
from lambda_keras.normalization import project_normalized
from lambda_keras.normalization import standardize_normalization
from lambda_keras.position_embeddings import PositionEmbeddings
from lambda_keras.position_embeddings import deserialize_embeddings
from lambda_keras.quantization import KeepsQuantization
from lambda_keras.visibility import Visibility
from lambda_keras.visibility import check_causal
from lambda_keras.visibility import find_causal_offsets
from lambda_keras.visibility import flatten_mask
from lambda_keras.visibility import hide_values
from lambda_keras.visibility import tell_masks_apart


class BaseLambda(KeepsQuantization, keras.layers.Layer):
    """Projects its inputs and applies content and position lambdas.

    A subclass says how many offsets its embeddings have (`count_offsets`),
    which one is the offset 0 (`find_centers`), and on which grids it can be
    called (`check_grids`). It may also say how far content is seen
    (`content_reach`), how many positions a position lambda sums over
    (`count_seen`), and what all position lambdas have in common
    (`add_bias`). `LambdaLayer` documents the arguments.
    """

    def __init__(
        self,
        filters,
        num_heads=4,
        key_dim=16,
        intra_depth=1,
        *,
        num_key_value_heads=1,
        use_content=True,
        use_position=True,
        key_normalization="softmax",
        normalization="batch",
        context_scale=1,
        position_embeddings=None,
        contraction_order=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(
            filters=filters,
            num_heads=num_heads,
            key_dim=key_dim,
            intra_depth=intra_depth,
            num_key_value_heads=num_key_value_heads,
        )
        check_divisible(
            "filters",
            filters,
            "num_heads",
            num_heads,
            "each head returns `filters / num_heads` of the output channels",
        )
        check_divisible(
            "num_heads",
            num_heads,
            "num_key_value_heads",
            num_key_value_heads,
            "as many queries share each lambda",
        )
        check_choice(
            "key_normalization", key_normalization, ("softmax", "l2", None)
        )
        check_choice("contraction_order", contraction_order, (None, *ORDERS))
        if not (use_content or use_position):
            raise ValueError(
                "A lambda is made of content, of positions or of both. "
                "Received: use_content=False, use_position=False"
            )
        if position_embeddings is not None and not use_position:
            raise ValueError(
                "`position_embeddings` needs `use_position=True`. "
                "Received: use_position=False"
            )
        self.filters = filters
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.intra_depth = intra_depth
        self.num_key_value_heads = num_key_value_heads
        self.use_content = use_content
        self.use_position = use_position
        self.key_normalization = key_normalization
        self._normalization = Untracked(
            standardize_normalization(normalization)
        )
        self.context_scale = context_scale
        self.contraction_order = contraction_order
        self.value_dim = filters // num_heads
        self.supports_masking = True
        self._grid = None
        self._strides = offsets.find_strides(context_scale)
        self._embeddings_are_given = position_embeddings is not None
        if isinstance(position_embeddings, dict):
            position_embeddings = deserialize_embeddings(position_embeddings)
        self.position_embeddings = position_embeddings
        if use_position and position_embeddings is None:
            self.position_embeddings = PositionEmbeddings(
                name="position_embeddings", dtype=self.dtype_policy
            )

    @property
    def normalization(self):
        return self._normalization.value

    def build(self, inputs_shape, context_shape=None):
        context_shape = inputs_shape if context_shape is None else context_shape
        check_input_shape("inputs", inputs_shape)
        check_input_shape("context", context_shape)
        _, *query_grid, channels = inputs_shape
        self._grid = tuple(query_grid)
        _, *context_grid, context_channels = context_shape
        if self.use_position:
            check_relation(query_grid, context_grid, self._strides)
            self.position_embeddings.build_for(
                self,
                (
                    *self.count_offsets(query_grid, context_grid),
                    *self._depths(),
                ),
            )
        # Bello, 2021, section 3: attention's scale of 1/sqrt(key_dim) stands
        # in the initializer of the queries, not in the forward pass.
        self.query = self._make_projection(
            "query",
            self.num_heads * self.key_dim,
            stddev=(self.key_dim * channels) ** -0.5,
        )
        pairs = self.num_key_value_heads * self.intra_depth
        self.value = self._make_projection(
            "value", pairs * self.value_dim, stddev=context_channels**-0.5
        )
        self.query_normalization = self._make_normalization("query")
        self.value_normalization = self._make_normalization("value")
        self.query.build(inputs_shape)
        self.query_normalization.build((*inputs_shape[:-1], self.query.units))
        self.value.build(context_shape)
        self.value_normalization.build((*context_shape[:-1], self.value.units))
        if self.use_content:
            self.key = self._make_projection(
                "key", pairs * self.key_dim, stddev=context_channels**-0.5
            )
            self.key.build(context_shape)

    def call(
        self,
        inputs,
        context=None,
        mask=None,
        inputs_mask=None,
        context_mask=None,
        use_causal_mask=False,
        training=None,
    ):
        padding, pairs = tell_masks_apart(
            mask, inputs, inputs if context is None else context
        )
        padding = inputs_mask if padding is None else padding
        if context is None:
            context, context_mask = inputs, padding
        if use_causal_mask:
            check_causal(inputs.shape[1:-1], context.shape[1:-1])
        queries = self._project_queries(inputs, padding, training)
        keys, values = self._project_context(context, context_mask, training)
        if context_mask is not None:
            context_mask = flatten_mask(context_mask, len(context.shape) - 2)
        visibility = Visibility(context_mask, pairs, use_causal_mask)

        outputs = 0.0
        if self.use_content:
            outputs = apply_content(
                queries,
                keys,
                values,
                self.key_normalization,
                visibility,
                self.content_reach(),
                self._strides,
            )
        if self.use_position:
            outputs = outputs + self._apply_positions(
                queries, values, visibility
            )
        shape = (-1, *ops.shape(inputs)[1:-1], self.filters)
        return self._cast_outputs(ops.reshape(outputs, shape))

    def count_offsets(self, query_grid, context_grid):
        """Returns the number of offsets on each axis of the grid."""
        raise NotImplementedError

    def count_seen(self, context_grid):
        """Returns how many context positions a position lambda sums over."""
        return math.prod(context_grid)

    def content_reach(self):
        """Returns how far content is seen on each axis; `None` everywhere."""
        return None

    def find_centers(self, query_grid):
        """Returns the index of the offset 0 on each axis of the table."""
        raise NotImplementedError

    def add_bias(self, outputs, queries):
        """Adds what the position lambdas have in common, here nothing.

        Args:
            outputs: those of the position lambdas, `(b, n, g, j, v)`.
            queries: `(b, ..., g, j, k)`.

        Returns:
            The outputs with it.
        """
        return outputs

    def check_grids(self, query_grid, context_grid, in_pairs=False):
        """Raises a `ValueError` if position lambdas do not fit the grids.

        Args:
            query_grid: sizes of the grid of the queries.
            context_grid: sizes of the grid of the context.
            in_pairs: whether each pair of positions needs its embedding.
        """
        raise NotImplementedError

    def compute_weights(self, inputs, context=None, use_causal_mask=False):
        """Computes how much of each value each query takes, in inference.

        The outputs of a head are the values times the sum of both kinds of
        weights, summed over the context and the intra-depth. With the
        `use_bias` of a `LambdaConv`, the product of the query and the bias
        comes on top, the same in all channels of the head: no position has a
        part in it. For looking into a layer: time and memory grow with the
        product of the numbers of positions.

        Args:
            inputs: as in the call.
            context: as in the call.
            use_causal_mask: as in the call.

        Returns:
            The weights of the content and those of the positions, each
            `(batch_size, queries, num_heads, context, intra_depth)` with the
            positions in row-major order, or `None` where the layer does not
            use them.
        """
        context = inputs if context is None else context
        if use_causal_mask:
            check_causal(inputs.shape[1:-1], context.shape[1:-1])
        queries = self._project_queries(inputs, None, False)
        keys, values = self._project_context(context, None, False)
        content_weights = position_weights = None
        if self.use_content:
            content_weights = self._join_groups(
                compute_content_weights(
                    queries,
                    keys,
                    self.key_normalization,
                    Visibility(causal=use_causal_mask),
                    self.content_reach(),
                    self._strides,
                )
            )
        if self.use_position:
            embeddings = self._expand_pairs(
                queries, values, self._read_table(use_causal_mask)
            )
            position_weights = self._join_groups(
                functional.map_groups(
                    functional.compute_position_weights,
                    flatten_grid(queries),
                    embeddings,
                )
            )
        return content_weights, position_weights

    def get_initial_state(self, batch_size=1):
        """Returns the state before the first step of a sequence.

        Args:
            batch_size: int. Number of sequences.

        Returns:
            The `SequenceState` that `step` takes, a named tuple of tensors
            whose size does not grow with the steps.

        Raises:
            ValueError: If the layer is not built on sequences.
        """
        if self._grid is None or len(self._grid) != 1:
            raise ValueError(
                "Only a layer that is built on sequences, of shape "
                "(batch_size, length, channels), takes them step by step. "
                f"Received: a layer built on the grid {self._grid}"
            )
        return start_sequence(
            (batch_size, self._window(), *self._depths(), self.value_dim),
            self.key_normalization,
            self.content_reach(),
            widen_dtype(self.compute_dtype),
        )

    def step(self, inputs, state):
        """Takes one step of a causal sequence, in inference.

        The outputs of the steps are those of a call on the whole sequence with
        `use_causal_mask=True`. The cost of a step does not depend on how many
        went before.

        Args:
            inputs: `(batch_size, channels)`.
            state: what `get_initial_state` or the step before returned.

        Returns:
            Outputs `(batch_size, filters)` and the next state.
        """
        inputs = ops.expand_dims(inputs, 1)
        queries = self._project_queries(inputs, None, False)
        keys, values = self._project_context(inputs, None, False)
        state = push_step(SequenceState(*state), keys, values)
        outputs = 0.0
        if self.use_content:
            content_lambda, state = step_content(
                state,
                keys,
                values,
                self.key_normalization,
                self.content_reach(),
            )
            outputs = functional.apply_content_lambda(queries, content_lambda)
        if self.use_position:
            table = self._read_table(causal=False)[: self._window()]
            positions = functional.apply_embeddings(
                queries, state.values, table[None]
            )
            outputs = outputs + self.add_bias(positions, queries)
        outputs = ops.reshape(outputs, (-1, self.filters))
        return self._cast_outputs(outputs), state

    def count_multiply_adds(self, inputs_shape, context_shape=None):
        """Counts the multiply-adds per example, as the paper defines them.

        Counted are those of the projections, of the lambda of the content, of
        the lambda of each position (for a `LambdaConv` a convolution, with the
        padding that it multiplies) and of the application of their sum to each
        query, in whichever order the layer computes them.

        Args:
            inputs_shape: `(batch_size, *grid, channels)`.
            context_shape: the same of a separate context.

        Returns:
            int.
        """
        context_shape = inputs_shape if context_shape is None else context_shape
        _, *query_grid, channels = inputs_shape
        _, *context_grid, context_channels = context_shape
        queries, contexts = math.prod(query_grid), math.prod(context_grid)
        # One product of a key or an embedding with a value.
        products = self.num_key_value_heads * self.intra_depth
        products *= self.key_dim * self.value_dim
        total = queries * channels * self.query.units
        total += contexts * context_channels * self.value.units
        if self.use_content:
            total += contexts * context_channels * self.key.units
            total += contexts * products
        if self.use_position:
            total += queries * self.count_seen(context_grid) * products
        return total + queries * self.filters * self.key_dim

    def compute_mask(self, inputs, previous_mask):
        # A mask of pairs says nothing about which outputs are real.
        is_padding = (
            previous_mask is not None
            and len(previous_mask.shape) == len(inputs.shape) - 1
        )
        return previous_mask if is_padding else None

    def compute_output_shape(self, inputs_shape, context_shape=None):
        return (*inputs_shape[:-1], self.filters)

    @classmethod
    def from_config(cls, config):
        embeddings = config.get("position_embeddings")
        if isinstance(embeddings, dict):
            # Here and not in `__init__`, where Keras would bury an error in
            # its own, below the whole config.
            embeddings = deserialize_embeddings(embeddings)
            config = {**config, "position_embeddings": embeddings}
        return super().from_config(config)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        normalization = self.normalization
        if isinstance(normalization, keras.layers.Layer):
            normalization = serialize(normalization)
        embeddings = None
        if self._embeddings_are_given:
            embeddings = self.position_embeddings.serialize_for(self)
        return {
            **super().get_config(),
            "filters": self.filters,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "intra_depth": self.intra_depth,
            "num_key_value_heads": self.num_key_value_heads,
            "use_content": self.use_content,
            "use_position": self.use_position,
            "key_normalization": self.key_normalization,
            "normalization": normalization,
            "context_scale": self.context_scale,
            "position_embeddings": embeddings,
            "contraction_order": self.contraction_order,
        }

    def _make_projection(self, name, units, stddev):
        return keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
            dtype=self.dtype_policy,
            name=name,
        )

    def _make_normalization(self, projection):
        return make_normalization(
            self.normalization,
            name=f"{projection}_normalization",
            dtype=self.dtype_policy,
        )

    def _project_queries(self, inputs, mask, training):
        queries = project_normalized(
            inputs, self.query, self.query_normalization, mask, training
        )
        shared = self.num_heads // self.num_key_value_heads
        return self._split(queries, (shared, self.key_dim))

    def _project_context(self, context, mask, training):
        values = project_normalized(
            context, self.value, self.value_normalization, mask, training
        )
        values = self._split(values, (self.intra_depth, self.value_dim))
        if not self.use_content:
            return None, values
        keys = self._split(self.key(context), (self.intra_depth, self.key_dim))
        return keys, values

    def _split(self, tensor, depths):
        grid = ops.shape(tensor)[1:-1]
        groups = self.num_key_value_heads
        tensor = ops.reshape(tensor, (-1, *grid, groups, *depths))
        return ops.cast(tensor, widen_dtype(self.compute_dtype))

    def _depths(self):
        return self.num_key_value_heads, self.intra_depth, self.key_dim

    def _cast_outputs(self, outputs):
        if self.compute_dtype == "float16":
            largest = float(np.finfo("float16").max)
            outputs = ops.clip(outputs, -largest, largest)
        return ops.cast(outputs, self.compute_dtype)

    def _apply_positions(self, queries, values, visibility):
        table = self._read_table(visibility.causal)
        values = hide_values(values, visibility.padding)
        if visibility.pairs is None:
            outputs = self._contract(queries, values, table)
        else:
            outputs = functional.apply_embeddings(
                flatten_grid(queries),
                flatten_grid(values),
                self._expand_pairs(queries, values, table),
                visibility.pairs,
            )
        return self.add_bias(outputs, queries)

    def _expand_pairs(self, queries, values, table):
        """Returns the embedding of each pair, `(n, m, g, u, k)`."""
        return offsets.expand_pairs(
            table, self._find_geometry(queries, values, in_pairs=True)
        )

    def _read_table(self, causal):
        table = ops.cast(
            self.position_embeddings.table, widen_dtype(self.compute_dtype)
        )
        if not causal:
            return table
        scopes = table.shape[:-3]
        before = find_causal_offsets(scopes)
        before = np.reshape(before, (*scopes, 1, 1, 1))
        return table * ops.cast(before, table.dtype)

    def _contract(self, queries, values, table):
        geometry = self._find_geometry(queries, values)
        return contract_position_lambdas(
            queries, values, table, geometry, self.contraction_order
        )

    def _find_geometry(self, queries, values, in_pairs=False):
        query_grid = find_sizes(queries.shape[1:-3])
        context_grid = find_sizes(values.shape[1:-3])
        self.check_grids(query_grid, context_grid, in_pairs)
        centers = self.find_centers(query_grid)
        return offsets.Geometry(
            query_grid, context_grid, centers, self._strides
        )

    def _join_groups(self, weights):
        """Brings `(b, n, g, j, m, u)` to `(b, n, h, m, u)`."""
        _, queries, _, _, context, depth = ops.shape(weights)
        return ops.reshape(
            weights, (-1, queries, self.num_heads, context, depth)
        )

    def _window(self):
        """Returns how many values a step looks at, with its own."""
        if self.use_position:
            return self.position_embeddings.table.shape[0] // 2 + 1
        return 0 if self.content_reach() is None else self.content_reach() + 1
