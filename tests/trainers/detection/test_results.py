"""What COCO measured: written, read and told."""

from trainers.detection import results

LOGS = {
    **dict(
        zip(results.METRICS, (0.381, 0.814, 0.3, -1, 0.4, 0.5), strict=True)
    ),
    **{
        f"mask_{name}": value
        for name, value in zip(
            results.METRICS, (0.473, 0.826, 0.44, -1, 0.45, 0.55), strict=True
        )
    },
    "validation_loss": 0.0,
}


def test_results_are_read_as_they_were_written(tmp_path):
    results.write_results(tmp_path, LOGS, 200)
    assert results.read_results(tmp_path) == {
        "step": 200,
        "box": {
            "AP": 0.381,
            "AP50": 0.814,
            "AP75": 0.3,
            # No small objects.
            "APs": None,
            "APm": 0.4,
            "APl": 0.5,
        },
        "mask": {
            "AP": 0.473,
            "AP50": 0.826,
            "AP75": 0.44,
            "APs": None,
            "APm": 0.45,
            "APl": 0.55,
        },
    }


def test_table_has_the_papers_rows_for_its_recipes(tmp_path):
    results.write_results(tmp_path, LOGS, 2000)
    achieved = results.read_results(tmp_path)
    lines = results.describe_results(achieved, "lambda_resnet101").splitlines()
    assert lines[1].split() == ["per", "cent", *2 * results.METRICS]
    numbers = "38.1 81.4 30.0 - 40.0 50.0 47.3 82.6 44.0 - 45.0 55.0"
    assert " ".join(lines[2].split()) == f"step 2,000 {numbers}"
    assert lines[3].endswith("not reproduced here:")
    assert "lambda_resnet101 49.4 31.7 52.2 65.6 43.5 25.9 46.5 60.8" in [
        " ".join(line.split()) for line in lines[4:]
    ]
    # Below their headings.
    assert len({len(line) for line in lines[1:3] + lines[4:]}) == 1


def test_table_of_other_recipes_is_without_the_papers(tmp_path):
    results.write_results(tmp_path, LOGS, 200)
    achieved = results.read_results(tmp_path)
    table = results.describe_results(achieved, "rectangles")
    assert len(table.splitlines()) == 3
