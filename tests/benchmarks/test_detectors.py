from benchmarks.workers import MIB
from benchmarks.workers import Measurement
from tests.support.programs import Program


def test_what_does_not_fit_says_so_beside_the_paper():
    facts = {"parameters": 2e6, "backbone_gmacs": 3.0, "gmacs": 5.0}
    found = {
        "resnet101": {
            "infer": Measurement([4.0], peak=7 * MIB, facts=facts),
            "train": Measurement(error="out of memory"),
        }
    }
    module = Program("benchmarks.detectors").module
    header, line = module.format_detectors(found).splitlines()
    assert header.split()[:3] == ["backbone", "M", "param."]
    expected = "resnet101 2 3 5 4 7 - - 48.2 42.6 train: out of memory"
    assert " ".join(line.split()) == expected
