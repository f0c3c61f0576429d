#!/usr/bin/env bash
# tidecv 1.0.1: equal scores hide what errors cost, and a category without objects counts as an AP of 0.
#
# The cost of a kind of error is the AP with such errors corrected, less the AP as it is. Of equal scores the first takes
# wrong detections before right ones, the second takes them as they came, and a difference below 0 counts as 0. So a missed
# object costs nothing where a wrong detection has the score of a right one, as scores of few digits often have.
# And one detection of a category that has no objects gives this category an AP of 0 in the mean over all. COCO's scores,
# whose replacement tidecv means to be, leave such categories out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tidecv==1.0.1 pycocotools==2.0.11 numpy==2.2.6
MPLBACKEND=agg "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import contextlib
import io
from importlib.metadata import version

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tidecv import TIDE, Data

NUT, BOLT = 1, 2
first, second, elsewhere = [10, 10, 40, 40], [100, 100, 40, 40], [10, 150, 20, 20]


def by_tide(objects, detections):
    truth, found = Data("truth"), Data("found")
    truth.add_image(1, "1.png")
    for category, box in objects:
        truth.add_ground_truth(1, category, box)
    for category, box, score in detections:
        found.add_detection(1, category, score, box)
    tide = TIDE()
    ap = tide.evaluate(truth, found, mode=TIDE.BOX).ap
    (costs,) = tide.get_main_errors().values()
    return ap, ", ".join(f"{kind} {costs[kind]:.1f}" for kind in ("Miss", "Bkg"))


def by_coco(objects, detections):
    truth = COCO()
    common = {"image_id": 1, "iscrowd": 0, "area": 1600}
    truth.dataset = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": NUT, "name": "nut"}, {"id": BOLT, "name": "bolt"}],
        "annotations": [
            {**common, "id": number, "category_id": category, "bbox": box}
            for number, (category, box) in enumerate(objects, start=1)
        ],
    }
    truth.createIndex()
    entries = [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in detections]
    evaluation = COCOeval(truth, truth.loadRes(entries), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[1]


def show(name, objects, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = by_coco(objects, detections)
    ap, costs = by_tide(objects, detections)
    print(f"{name}: AP50 {ap:.1f}, by pycocotools {coco:.1f}, costs {costs}")


print(f"tidecv {version('tidecv')}, pycocotools {version('pycocotools')}")
two = [(NUT, first), (NUT, second)]
show("one of two nuts missed, a wrong one of a lower score", two, [(NUT, first, 0.9), (NUT, elsewhere, 0.8)])
show("the same, with equal scores", two, [(NUT, first, 0.9), (NUT, elsewhere, 0.9)])
show("a nut found", [(NUT, first)], [(NUT, first, 0.9)])
show("and a bolt where none is", [(NUT, first)], [(NUT, first, 0.9), (BOLT, elsewhere, 0.2)])
PYTHON
diff "$folder/seen" - <<'SEEN'
tidecv 1.0.1, pycocotools 2.0.11
one of two nuts missed, a wrong one of a lower score: AP50 50.5, by pycocotools 50.5, costs Miss 49.5, Bkg 0.0
the same, with equal scores: AP50 50.5, by pycocotools 50.5, costs Miss 0.0, Bkg 0.0
a nut found: AP50 100.0, by pycocotools 100.0, costs Miss 0.0, Bkg 0.0
and a bolt where none is: AP50 50.0, by pycocotools 100.0, costs Miss 0.0, Bkg 50.0
SEEN
