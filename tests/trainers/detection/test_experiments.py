"""The experiments: the paper's numbers, and what differs from them."""

import pytest

from lambda_keras.networks.lambda_resnet import DEPTHS
from trainers.detection.experiments import RECIPES
from trainers.detection.experiments import make_experiment
from trainers.detection.experiments import read_experiment
from trainers.program import UserError


def test_default_is_the_papers_setting():
    experiment = make_experiment()
    task, trainer = experiment.task, experiment.trainer
    backbone = task.model.backbone.lambda_resnet
    assert (backbone.depth, backbone.layout) == (101, "")
    assert backbone.scope_size == 23
    assert task.model.input_size == [1024, 1024, 3]
    assert task.model.num_classes == 91
    assert task.model.norm_activation.use_sync_bn
    head = task.model.detection_head
    assert (head.num_convs, head.num_fcs, head.fc_dims) == (4, 1, 1024)
    assert task.train_data.global_batch_size == 256
    parser = task.train_data.parser
    assert (parser.aug_scale_min, parser.aug_scale_max) == (0.1, 2.0)
    assert task.losses.l2_weight_decay == 4e-5
    assert trainer.train_steps == 130_000
    optimizer = trainer.optimizer_config
    assert optimizer.optimizer.get().momentum == 0.9
    rate = optimizer.learning_rate.get()
    assert rate.boundaries == [117_000, 123_500, 126_750]
    assert rate.values == pytest.approx([0.32, 0.032, 0.0032, 0.00032])
    warmup = optimizer.warmup.get()
    assert (warmup.warmup_steps, warmup.warmup_learning_rate) == (1000, 0)
    assert not task.init_checkpoint


def test_recipes_are_the_rows_of_the_paper():
    ratios = {
        "lambda_resnet101": (101, "", None),
        "lambda_resnet152": (152, "", None),
        "resnet101": (101, "CCCC", 0.0),
        "resnet101_se": (101, "CCCC", 0.25),
        "resnet152": (152, "CCCC", 0.0),
        "resnet152_se": (152, "CCCC", 0.25),
    }
    assert set(RECIPES) == {*ratios, "rectangles"}
    for name, (depth, layout, ratio) in ratios.items():
        config = make_experiment(name).task.model.backbone.lambda_resnet
        assert depth in DEPTHS
        assert config.depth == depth
        assert config.layout == layout
        assert config.squeeze_excite_ratio == ratio


def test_learning_rate_is_in_proportion_and_drops_with_the_length():
    experiment = make_experiment(batch_size=64, train_steps=2000)
    rate = experiment.trainer.optimizer_config.learning_rate.get()
    assert rate.values == pytest.approx([0.08, 0.008, 0.0008, 0.00008])
    assert rate.boundaries == [1800, 1900, 1950]
    warmup = experiment.trainer.optimizer_config.warmup.get()
    assert warmup.warmup_steps == 200


def test_rectangles_end_with_their_cosine():
    experiment = make_experiment("rectangles", train_steps=80)
    rate = experiment.trainer.optimizer_config.learning_rate.get()
    assert (rate.initial_learning_rate, rate.decay_steps) == (0.005, 80)
    assert experiment.task.model.num_classes == 4


def test_written_experiment_is_read_again(tmp_path):
    from official.modeling import hyperparams

    experiment = make_experiment(
        "rectangles", train="a-*", precision="mixed_bfloat16"
    )
    path = tmp_path / "params.yaml"
    hyperparams.save_params_dict_to_yaml(experiment, str(path))
    assert read_experiment(path).as_dict() == experiment.as_dict()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("task.model.deth=3", "The key 'deth' does not exist"),
        ("{trainer: {step: 3}}", "The key 'step' does not exist"),
        ("missing.yaml", "No such file"),
        ("{a: [", "expected"),
        ("task=3", "task must be keys with values, not 3"),
        (
            "{task: {model: {detection_head: {num_filters: abc}}}}",
            "detection_head.num_filters must be of type int, not 'abc'",
        ),
        (
            "task.model.detection_head.num_filters=1.5",
            "must be of type int, not 1.5",
        ),
        (
            "task.model.mask_head.class_agnostic=1",
            "must be of type bool, not 1",
        ),
        (
            "task.model.rpn_head.num_convs=true",
            "must be of type int, not True",
        ),
        ("{trainer: {train_steps: null}}", "must be of type int, not None"),
        (
            "{task: {model: {roi_sampler: {cascade_iou_thresholds: [a]}}}}",
            "must be a list of float or null, not ['a']",
        ),
        ("{task: {losses: [1]}}", "losses must be keys with values, not [1]"),
        ("task.losses.mask_weight=.nan", "must be finite, not nan"),
        (
            "task.model.roi_generator.num_proposals=-1",
            "num_proposals must be at least 0, not -1",
        ),
        (
            "trainer.optimizer_config.optimizer.type=sdg",
            "optimizer.type must be one of sgd, ",
        ),
        (
            "task.model.decoder.type=pyramid",
            "decoder.type must be one of ",
        ),
        (
            "{task: {train_data: {parser: {aug_type: {type: auto}}}}}",
            "aug_type.type must be one of randaug, ",
        ),
    ],
)
def test_bad_overrides_are_one_line(override, reason):
    with pytest.raises(UserError) as error:
        make_experiment(params_override=override)
    message = str(error.value)
    assert message.startswith("--params_override must be YAML")
    assert reason in message
    assert "\n" not in message
    assert message.endswith(f"Received: {override}")


@pytest.mark.parametrize("recipe", RECIPES)
def test_values_that_fit_are_taken(recipe):
    experiment = make_experiment(
        recipe,
        params_override="""
            task:
                losses: {mask_weight: 2, class_weights: [1, 0.5]}
                model: {mask_sampler: null, anchor: {anchor_size: 4}}
                train_data:
                    seed: null
                    input_path: [a, b]
                    parser: {aug_type: {type: randaug, randaug: {magnitude: 7}}}
            trainer: {validation_steps: -1, recovery_max_trials: -1}
        """,
    )
    task = experiment.task
    assert task.losses.mask_weight == 2
    assert task.losses.class_weights == [1, 0.5]
    assert task.model.mask_sampler is None
    assert task.train_data.seed is None
    assert task.train_data.input_path == ["a", "b"]
    assert task.train_data.parser.aug_type.get().magnitude == 7
    assert experiment.trainer.recovery_max_trials == -1


def test_bad_value_of_a_run_is_one_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("task: {model: {rpn_head: {num_filters: many}}}")
    with pytest.raises(UserError, match=r"num_filters must be of type int"):
        read_experiment(path)


def test_unknown_recipe_is_one_line():
    with pytest.raises(UserError, match="--recipe must be one of"):
        make_experiment("resnet")
