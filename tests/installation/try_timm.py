"""The extra ``timm``: a Mask R-CNN on a backbone of timm learns from a batch."""

from data_set import batch

from composer_copypaste import DetectorSettings, build_detector

if __name__ == "__main__":
    settings = DetectorSettings(name="mask_rcnn", backbone="timm/test_resnet", min_size=64, max_size=64)
    images, targets = batch()
    losses = build_detector(3, settings)([image / 255 for image in images], targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
