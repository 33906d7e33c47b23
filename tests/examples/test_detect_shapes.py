import pathlib

from examples import detect_shapes


def test_a_comparison_is_of_both_networks_and_all_seeds(monkeypatch):
    runs = []

    def train(records, model_dir, *, layout, seed):
        runs.append((records, model_dir))
        share = 0.5 * (layout == "CCLL") + 0.1 * seed
        values = {"AP": share, "AP50": share + 0.01}
        return {"box": values, "mask": {"AP": 0.3, "AP50": share / 2}}

    monkeypatch.setattr(detect_shapes, "train", train)
    table = detect_shapes.compare(pathlib.Path("data"), pathlib.Path("out"))
    assert len(set(runs)) == 6
    _, _, lambdas, convolutions = table.splitlines()
    assert lambdas.startswith(
        "| lambda layers, CCLL | 60.0 (50.0 to 70.0) | 61.0 (51.0 to 71.0) "
        "| 30.0 (30.0 to 30.0) | 30.0 (25.0 to 35.0) |"
    )
    assert convolutions.startswith("| convolutions, CCCC | 10.0 (0.0 to 20.0)")
