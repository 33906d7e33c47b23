"""What a layer that is made of others needs after `model.quantize`."""


class KeepsQuantization:
    """Lets a layer whose parts are quantized be saved and loaded.

    Keras writes down how a layer is quantized in the config of that layer, but
    those of its parts are not saved: they would be made as before, and refuse
    the quantized weights, as those of a `MultiHeadAttention` do. Inherit from
    it before `keras.layers.Layer`.
    """

    def get_build_config(self):
        config = super().get_build_config()
        modes = [part.quantization_mode for part in self._list_parts()]
        return {**config, "quantization": modes} if any(modes) else config

    def build_from_config(self, config):
        super().build_from_config(config)
        if not config or "quantization" not in config:
            return
        modes = config["quantization"]
        for part, mode in zip(self._list_parts(), modes, strict=True):
            if mode is not None:
                part.quantize(mode)

    def _list_parts(self):
        return self._flatten_layers(include_self=False)
