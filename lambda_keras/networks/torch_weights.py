"""Weights of PyTorch networks for ours, and back.

Those of timm (its lambda ResNets, ResNets and ResNet-RS), and of others that
bear torchvision's names, such as d-li14's Lambda-ResNet-50.

Reference:
    - [timm](https://github.com/huggingface/pytorch-image-models)
    - [lambda.pytorch](https://github.com/d-li14/lambda.pytorch)
"""

import pathlib
import pickle
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from lambda_keras.base_lambda import BaseLambda
from lambda_keras.lambda_conv import LambdaConv
from lambda_keras.networks.places import find_layers
from lambda_keras.networks.places import find_network
from lambda_keras.networks.places import has_layer
from lambda_keras.position_embeddings import resize_position_embeddings

_HUB_PREFIX = "hf://"
_CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
# What PyTorch raises of a damaged file, and what follows from one that holds
# something else.
_TORCH_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class _Naming(NamedTuple):
    """What a family of checkpoints calls the parts of a network.

    Attributes:
        stem: by the prefix of our layers, names of the convolution and of the
            normalization.
        block: prefix of a block.
        parts: as `stem`, for the parts of a block.
        lambda_parts: names of the projections, of the normalizations of the
            queries and of the values, of the convolution of the positions, of
            a table for all offsets, and of the normalization that follows.
        position_axes: order of our table's axes in that convolution's kernel.
        head: name of the classifier.
    """

    stem: dict
    block: str
    parts: dict
    lambda_parts: tuple
    position_axes: tuple
    head: str


_BYOBNET = _Naming(
    stem={
        f"stem_tier{n}": (f"stem.conv{n}.conv", f"stem.conv{n}.bn")
        for n in (1, 2, 3)
    },
    block="stages.{stage}.{block}.",
    parts={
        "1": ("conv1_1x1.conv", "conv1_1x1.bn"),
        "2": ("conv2_kxk.conv", "conv2_kxk.bn"),
        "3": ("conv3_1x1.conv", "conv3_1x1.bn"),
        "shortcut": ("shortcut.conv", "shortcut.bn"),
    },
    lambda_parts=(
        "self_attn.qkv",
        "self_attn.norm_q",
        "self_attn.norm_v",
        "self_attn.conv_lambda",
        "self_attn.pos_emb",
        "post_attn",
    ),
    position_axes=(4, 3, 0, 1, 2),
    head="head.fc",
)
_TORCHVISION = _Naming(
    stem={"stem": ("conv1", "bn1")},
    block="layer{stage_from_one}.{block}.",
    parts={
        "1": ("conv1", "bn1"),
        "2": ("conv2", "bn2"),
        "3": ("conv3", "bn3"),
        "shortcut": ("downsample.0", "downsample.1"),
        "squeeze": ("se.fc1", None),
        "excite": ("se.fc2", None),
    },
    lambda_parts=(
        "conv2.conv_qkv",
        "conv2.norm_q",
        "conv2.norm_v",
        "conv2.lambda_conv",
        None,
        "bn2",
    ),
    position_axes=(4, 3, 2, 0, 1),
    head="fc",
)
_RESNET_RS = _TORCHVISION._replace(
    stem={
        "stem_1": ("conv1.0", "conv1.1"),
        "stem_2": ("conv1.3", "conv1.4"),
        "stem_3": ("conv1.6", "bn1"),
        "stem_4": ("maxpool.0", "maxpool.1"),
    },
    parts={
        **_TORCHVISION.parts,
        "shortcut": ("downsample.1", "downsample.2"),
    },
)


class TorchTensor(NamedTuple):
    """A tensor of a checkpoint, and the Keras weights that it holds.

    Attributes:
        weights: Keras weights, which it holds side by side on the last axis.
        axes: order of the weights' axes in the tensor.
        shape: of the tensor. `axes` leads to it but for axes of size 1.
        is_resized: whether a tensor with another number of offsets will do.
    """

    weights: tuple
    axes: tuple
    shape: tuple
    is_resized: bool = False


def load_timm_weights(model, weights):
    """Gives a network the weights of a PyTorch checkpoint.

    Args:
        model: a network of `build_lambda_resnet` with the layers of the
            checkpoint's, or a model around one. Without a classifier it leaves
            out that of the checkpoint.
        weights: path of a `.safetensors` file, or of one that `torch.save`
            wrote, which takes PyTorch to read; `"hf://owner/name"` for the
            model of that name on the Hugging Face hub; or the checkpoint as a
            dictionary of arrays.

    Raises:
        ValueError: If the checkpoint is that of another network; the message
            names the tensors. The model is then unchanged.

    Example:

    ```python
    model = lambda_keras.build_network("lambda_resnet26t")
    lambda_keras.load_timm_weights(model, "lambda_resnet26t.safetensors")
    ```
    """
    if not isinstance(weights, dict):
        weights = read_checkpoint(weights)
    tensors = list_tensors(model)
    _check_checkpoint(select_tensors(weights, model), tensors)
    for name, tensor in tensors.items():
        _assign(tensor, np.asarray(weights[name]))


def make_timm_state(model):
    """Returns the weights of a network as PyTorch names and shapes them.

    Args:
        model: a network of `build_lambda_resnet`, or a model around one.

    Returns:
        Dictionary of NumPy arrays. A network of `build_network` that bears the
        name of one of timm's is read by that of timm.
    """
    state = {}
    for name, tensor in list_tensors(model).items():
        parts = [ops.convert_to_numpy(weight) for weight in tensor.weights]
        array = np.concatenate(parts, axis=-1).transpose(tensor.axes)
        state[name] = np.ascontiguousarray(array.reshape(tensor.shape))
    return state


def is_checkpoint(weights):
    """Whether `weights` name or hold a checkpoint that PyTorch reads."""
    return (
        isinstance(weights, dict)
        or str(weights).startswith(_HUB_PREFIX)
        or str(weights).endswith(_CHECKPOINT_SUFFIXES)
    )


def read_checkpoint(weights):
    """Reads the tensors of a PyTorch checkpoint.

    Args:
        weights: path, or `"hf://owner/name"`, as in `load_timm_weights`.

    Returns:
        Dictionary of NumPy arrays.

    Raises:
        ImportError: If it takes a package to read that is not installed.
        OSError: If it cannot be read.
        ValueError: If the file is of another kind, or damaged.
    """
    if str(weights).startswith(_HUB_PREFIX):
        from huggingface_hub import hf_hub_download

        repository = str(weights).removeprefix(_HUB_PREFIX)
        weights = hf_hub_download(repository, "model.safetensors")
    path = pathlib.Path(weights)
    if path.suffix not in _CHECKPOINT_SUFFIXES:
        raise ValueError(
            f"A checkpoint must be one of {', '.join(_CHECKPOINT_SUFFIXES)} or "
            f'begin with "{_HUB_PREFIX}". Received: {weights}'
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no safetensors file, or a damaged one: {error}"
            ) from error
    import torch

    try:
        # Reads no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {
            # The prefix is that of a network on several devices.
            name.removeprefix("module."): tensor.detach().numpy()
            for name, tensor in state.items()
        }
    # Some of its messages say how to run what code is in there.
    except _TORCH_ERRORS as error:
        raise ValueError(
            f"{path} is no file of tensors by name that `torch.save` wrote, or "
            f"a damaged one: {type(error).__name__}"
        ) from error


def select_tensors(state, model):
    """Leaves out of a checkpoint what a network has no use for.

    Args:
        state: dictionary of arrays.
        model: as in `load_timm_weights`.

    Returns:
        The dictionary without the counters of batches and, if the network has
        no classifier, without that of the checkpoint.
    """
    network = find_network(model)
    has_head = has_layer(network, "predictions")
    head = f"{_choose_naming(network).head}."
    return {
        name: array
        for name, array in state.items()
        if not name.endswith(".num_batches_tracked")
        and (has_head or not name.startswith(head))
    }


def list_tensors(model):
    """Lists the tensors that a checkpoint of a network has.

    Args:
        model: as in `load_timm_weights`.

    Returns:
        Dictionary from the names in PyTorch to `TorchTensor`s.

    Raises:
        ValueError: If a layer has no counterpart in PyTorch.
    """
    network = find_network(model)
    naming = _choose_naming(network)
    layers = find_layers(network)
    tensors = {}
    for ours, names in naming.stem.items():
        tensors |= _list_convolution(layers, ours, *names)
    for stage in range(4):
        block = 0
        while (ours := f"c{stage + 2}_block{block + 1}") + "_1_conv" in layers:
            theirs = naming.block.format(
                stage=stage, stage_from_one=stage + 1, block=block
            )
            parts = _list_block(layers, ours, naming)
            tensors |= {theirs + name: part for name, part in parts.items()}
            block += 1
    if "predictions" in layers:
        [head] = layers["predictions"]
        tensors[f"{naming.head}.weight"] = _keep(head.kernel, (1, 0))
        tensors[f"{naming.head}.bias"] = _keep(head.bias)
    return tensors


def _choose_naming(network):
    if has_layer(network, "stem_tier1_conv"):
        return _BYOBNET
    is_rs = has_layer(network, "stem_1_conv")
    return _RESNET_RS if is_rs else _TORCHVISION


def _list_block(layers, ours, naming):
    tensors = {}
    for part, names in naming.parts.items():
        tensors |= _list_convolution(layers, f"{ours}_{part}", *names)
    if f"{ours}_2_conv" not in layers:
        [after] = layers[f"{ours}_2_normalization"]
        made = layers.get(f"{ours}_lambda", [])
        tensors |= _list_lambda_layer(ours, made, after, naming)
    return tensors


def _list_convolution(layers, ours, conv_name, norm_name):
    if f"{ours}_conv" not in layers:
        return {}
    [conv] = layers[f"{ours}_conv"]
    tensors = {f"{conv_name}.weight": _keep(conv.kernel, (3, 2, 0, 1))}
    if conv.use_bias:
        tensors[f"{conv_name}.bias"] = _keep(conv.bias)
    if norm_name is not None:
        [norm] = layers[f"{ours}_normalization"]
        tensors |= _list_normalization(norm, norm_name)
    return tensors


def _list_normalization(layer, name):
    if not isinstance(layer, keras.layers.BatchNormalization):
        raise ValueError(
            "Only networks with batch normalization have a counterpart in "
            f"PyTorch. Received: {layer.name}, a {type(layer).__name__}"
        )
    return {
        f"{name}.weight": _keep(layer.gamma),
        f"{name}.bias": _keep(layer.beta),
        f"{name}.running_mean": _keep(layer.moving_mean),
        f"{name}.running_var": _keep(layer.moving_variance),
    }


def _list_lambda_layer(block, layers, after, naming):
    layer = _find_lambda_layer(block, layers)
    qkv, norm_q, norm_v, conv, all_offsets, norm = naming.lambda_parts
    kernels = tuple(
        projection.kernel
        for projection in (layer.query, layer.key, layer.value)
    )
    columns = sum(kernel.shape[-1] for kernel in kernels)
    shape = (columns, kernels[0].shape[0], 1, 1)
    tensors = {f"{qkv}.weight": TorchTensor(kernels, (1, 0), shape)}
    tensors |= _list_normalization(layer.query_normalization, norm_q)
    tensors |= _list_normalization(layer.value_normalization, norm_v)
    tensors |= _list_normalization(after, norm)
    table = layer.position_embeddings.table
    if isinstance(layer, LambdaConv):
        tensors[f"{conv}.weight"] = _keep(table, naming.position_axes)
        if layer.use_bias:
            shape = (layer.key_dim,)
            tensors[f"{conv}.bias"] = TorchTensor((layer.bias,), (0, 1), shape)
    else:
        shape = (*table.shape[:-3], layer.key_dim)
        tensors[all_offsets] = TorchTensor(
            (table,), tuple(range(len(table.shape))), shape, is_resized=True
        )
    return tensors


def _find_lambda_layer(block, layers):
    """Returns the one layer at a place, if PyTorch has its counterpart."""
    kinds = ", ".join(type(layer).__name__ for layer in layers) or "none"
    if len(layers) != 1 or not isinstance(layers[0], BaseLambda):
        raise ValueError(
            "Only one lambda layer in each place of its own has a counterpart "
            f"in PyTorch. Received: {kinds} in {block}"
        )
    layer = layers[0]
    uses_both = layer.use_content and layer.use_position
    if layer.num_key_value_heads != 1 or not uses_both:
        raise ValueError(
            "Only lambda layers with one lambda per position, of content and "
            "of positions, have a counterpart in PyTorch. Received: "
            f"{layer.name} with num_key_value_heads="
            f"{layer.num_key_value_heads}, use_content={layer.use_content}, "
            f"use_position={layer.use_position}"
        )
    return layer


def _keep(weight, axes=(0,)):
    """A tensor that is one weight with its axes in another order."""
    shape = tuple(weight.shape[axis] for axis in axes)
    return TorchTensor((weight,), tuple(axes), shape)


def _check_checkpoint(state, tensors):
    missing = sorted(tensors.keys() - state.keys())
    unexpected = sorted(state.keys() - tensors.keys())
    misshapen = [
        f"{name} {np.shape(state[name])} for {tensor.shape}"
        for name, tensor in tensors.items()
        if name in state and not _fits(np.shape(state[name]), tensor)
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:8])}"
        + (", ..." if len(names) > 8 else "")
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if problems:
        raise ValueError(
            "The checkpoint must have the tensors of the network. For another "
            "classifier, build the network with `include_top=False`. "
            f"Received: {'; '.join(problems)}"
        )


def _fits(shape, tensor):
    if tensor.is_resized:
        same_rank = len(shape) == len(tensor.shape)
        return same_rank and shape[-1] == tensor.shape[-1]
    return tuple(shape) == tensor.shape


def _assign(tensor, array):
    first = tensor.weights[0]
    sizes = [weight.shape[-1] for weight in tensor.weights]
    joined = (*first.shape[:-1], sum(sizes))
    if tensor.is_resized:
        table = array.reshape((*array.shape[:-1], *joined[-3:]))
        first.assign(resize_position_embeddings(table, joined[:-3]))
        return
    array = array.reshape([joined[axis] for axis in tensor.axes])
    array = array.transpose(np.argsort(tensor.axes))
    ends = np.cumsum(sizes)[:-1]
    for weight, part in zip(
        tensor.weights, np.split(array, ends, axis=-1), strict=True
    ):
        weight.assign(part)
