"""Whether an experiment can be run, before any long work begins."""

from trainers.detection.records import check_records
from trainers.program import UserError


def check_experiment(experiment, mode: str, *, is_dry: bool) -> None:
    """Checks the numbers of an experiment, and its records.

    Args:
        experiment: what `experiments.make_experiment` returned.
        mode: as in `train_detector.run_mode`.
        is_dry: whether records may be missing.

    Raises:
        UserError: If something is wrong with either.
    """
    _check_sizes(experiment.task.model)
    _check_samples(experiment.task)
    _check_intervals(experiment.trainer)
    _check_data(experiment.task, mode, is_dry=is_dry)


def check_batch_sizes(experiment, device_count: int) -> None:
    """Checks that devices can share the batches of an experiment.

    Args:
        experiment: as in `check_experiment`.
        device_count: number of the devices.

    Raises:
        UserError: If they cannot.
    """
    task = experiment.task
    for data in (task.train_data, task.validation_data):
        if data.global_batch_size % device_count:
            raise UserError(
                f"Batches must be multiples of the {device_count} devices "
                "that share them; see --batch_size, and "
                "task.validation_data.global_batch_size in --params_override. "
                f"Received: {data.global_batch_size}"
            )


def _check_sizes(model):
    stride = 2**model.max_level
    if any(size % stride for size in model.input_size[:2]):
        raise UserError(
            f"--image_size must be a multiple of {stride}, because the "
            f"pyramid's level {model.max_level} divides it by it. Received: "
            f"--image_size={model.input_size[0]}"
        )


def _check_samples(task):
    model = task.model
    rois = model.roi_sampler.num_sampled_rois
    most = model.roi_generator.num_proposals
    if model.roi_sampler.mix_gt_boxes:
        most += task.train_data.parser.max_num_instances
    if rois > most:
        raise UserError(
            "task.model.roi_sampler.num_sampled_rois must be at most "
            f"{most}, as many as there are to choose from: roi_generator."
            "num_proposals, and with mix_gt_boxes the parser's "
            f"max_num_instances. Received: {rois}"
        )
    if not model.include_mask or not model.mask_sampler:
        return
    masks = model.mask_sampler.num_sampled_masks
    if masks > rois:
        raise UserError(
            "task.model.mask_sampler.num_sampled_masks must be at most "
            f"{rois}, because masks are of the roi_sampler's "
            f"num_sampled_rois. Received: {masks}"
        )


def _check_intervals(trainer):
    for name in (
        "train_steps",
        "steps_per_loop",
        "summary_interval",
        "validation_interval",
    ):
        if getattr(trainer, name) < 1:
            raise UserError(
                f"trainer.{name} must be at least 1 step. "
                f"Received: {getattr(trainer, name)}"
            )
    if trainer.summary_interval % trainer.steps_per_loop:
        raise UserError(
            "trainer.summary_interval must be a multiple of steps_per_loop, "
            "because summaries are written between loops. Received: "
            f"{trainer.summary_interval} and {trainer.steps_per_loop}"
        )


def _check_data(task, mode, *, is_dry):
    for name, verb, data in (
        ("train", "train", task.train_data),
        ("validation", "eval", task.validation_data),
    ):
        if data.input_path:
            check_records(data.input_path, task.model.num_classes)
        elif verb in mode and not is_dry:
            raise UserError(
                f"--{name} is missing: a pattern of the names of TFRecords."
            )
