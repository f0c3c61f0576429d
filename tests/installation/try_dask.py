"""The extra ``dask``: a scheduler's workers make the images of an offline data set."""

from pathlib import Path

from data_set import copypaste, write_data_set

if __name__ == "__main__":
    from distributed import LocalCluster

    images, annotations = write_data_set()
    place = ["--images", str(images), "--annotations", str(annotations)]
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        copypaste("augment", "of_workers", *place, "--dask", cluster.scheduler_address)
    copypaste("augment", "of_process", *place)
    made, expected = (Path(name, "annotations.json").read_bytes() for name in ("of_workers", "of_process"))
    assert made == expected
