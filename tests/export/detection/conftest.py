"""A detector that nobody trained, as training would leave it."""

import json

import pytest


@pytest.fixture(scope="session")
def untrained_dir(tmp_path_factory):
    """The folder of a run, with params.yaml, metadata.json and a checkpoint."""
    import tensorflow as tf
    import tf_keras
    from official.core import task_factory
    from official.modeling import hyperparams

    from trainers.detection.backbone import register_backbone
    from trainers.detection.experiments import make_experiment
    from trainers.detection.shapes import SHAPES

    folder = tmp_path_factory.mktemp("runs") / "shapes"
    folder.mkdir()
    register_backbone()
    experiment = make_experiment("rectangles", image_size=64)
    experiment.task.model.backbone.lambda_resnet.width_multiplier = 0.125
    hyperparams.save_params_dict_to_yaml(
        experiment, str(folder / "params.yaml")
    )
    (folder / "metadata.json").write_text(
        json.dumps({"class_names": list(SHAPES)})
    )
    tf_keras.utils.set_random_seed(0)
    model = task_factory.get_task(experiment.task).build_model()
    checkpoint = tf.train.Checkpoint(model=model)
    tf.train.CheckpointManager(checkpoint, str(folder), 1).save(200)
    return folder
