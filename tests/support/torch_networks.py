"""PyTorch networks with random weights, to compare ours with."""

import pytest

from export import timm_networks


class TorchNetwork:
    """A PyTorch network in inference, fed and read with the channels last.

    Args:
        module: the network. All its weights and statistics are redrawn.
        residual_scale: float. Of the last normalization of each branch.
    """

    def __init__(self, module, residual_scale=1.0):
        self.module = module.eval()
        state = timm_networks.draw_state(
            {name: array.shape for name, array in self.state().items()}
        )
        for name in state:
            if name.endswith("bn3.weight"):
                state[name] *= residual_scale
        self.load(state)

    def state(self):
        """The weights as a checkpoint holds them, in NumPy."""
        state = self.module.state_dict()
        return {name: tensor.numpy() for name, tensor in state.items()}

    def load(self, state):
        timm_networks.load_state(self.module, state)

    def normalize(self, images):
        """Gives the normalizations the statistics of a batch of images."""
        from torch import nn

        for module in self.module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        self.module.train()
        self(images)
        self.module.eval()

    def __call__(self, images):
        return timm_networks.compute_logits(self.module, images)


def build_timm_network(name, image_size):
    """timm's network of a name; skips the test where there is no timm."""
    import_timm()
    return TorchNetwork(timm_networks.create_timm_network(name, image_size))


def import_timm():
    """Imports timm, or skips the test."""
    try:
        return timm_networks.import_timm()
    except ImportError as error:
        pytest.skip(str(error))


def build_lambda_resnet50():
    """torchvision's ResNet-50 with lambda layers, as d-li14's is named."""
    network = import_timm().create_model("resnet50")
    for number, stage in enumerate(
        (network.layer1, network.layer2, network.layer3, network.layer4)
    ):
        for block in stage:
            stride = block.conv2.stride[0]
            block.conv2 = _make_lambda_convolution(64 * 2**number, stride)
    return TorchNetwork(network, residual_scale=0.25)


def _make_lambda_convolution(channels, stride, keys=16, heads=4, scope=23):
    import torch
    from torch import nn

    class LambdaConvolution(nn.Module):
        """The lambda convolution of Bello, 2021, with a bias."""

        def __init__(self):
            super().__init__()
            size = channels // heads
            self.conv_qkv = nn.Conv2d(
                channels, heads * keys + keys + size, 1, bias=False
            )
            self.norm_q = nn.BatchNorm2d(heads * keys)
            self.norm_v = nn.BatchNorm2d(size)
            self.lambda_conv = nn.Conv3d(
                1, keys, (1, scope, scope), padding=(0, scope // 2, scope // 2)
            )
            self.avgpool = nn.AvgPool2d(3, stride, padding=1)

        def forward(self, maps):
            batch, _, height, width = maps.shape
            sizes = (heads * keys, keys, channels // heads)
            queries, key, values = self.conv_qkv(maps).split(sizes, dim=1)
            queries = self.norm_q(queries).view(
                batch, heads, keys, height, width
            )
            values = self.norm_v(values)
            weights = key.flatten(2).softmax(-1).view(key.shape)
            content = torch.einsum("bkyx,bvyx->bkv", weights, values)
            lambdas = self.lambda_conv(values[:, None])
            lambdas = lambdas + content[..., None, None]
            outputs = torch.einsum("bhkyx,bkvyx->bhvyx", queries, lambdas)
            outputs = outputs.reshape(batch, channels, height, width)
            return self.avgpool(outputs) if stride > 1 else outputs

    return LambdaConvolution()
