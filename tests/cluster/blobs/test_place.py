"""The setting `blobs`: a URL that names a folder, or a path in a bucket, and nothing else."""

from __future__ import annotations

import traceback

import pytest

from podium.cluster.blobs.place import read_place
from podium.cluster.config import load_settings
from podium.errors import InvalidSetting


@pytest.mark.parametrize(
    ("url", "scheme", "bucket", "path"),
    [
        ("s3://bucket", "s3", "bucket", ""),
        ("s3://bucket/", "s3", "bucket", ""),
        ("s3://bucket.of-us_1/a/b c/", "s3", "bucket.of-us_1", "a/b c"),
        ("gs://bucket/path", "gs", "bucket", "path"),
        ("az://container/path", "az", "container", "path"),
        ("file:///srv/our%20blobs/", "file", "", "/srv/our blobs"),
    ],
)
def test_a_url_is_a_bucket_and_a_path_or_a_folder(url, scheme, bucket, path):
    assert read_place(url) == (scheme, bucket, path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:hunter2@bucket/path", "no place for a user, a password or a port"),
        ("s3://key:hun/ter2@bucket/path", "no place for a user, a password or a port"),
        ("s3://hunter2:9000/bucket", "no place for a user, a password or a port"),
        ("az://container/path?sig=hunter2", "the URL takes no parameters"),
        ("s3://bucket/#hunter2", "the URL takes no parameters"),
        ("/srv/hunter2", "expected file:///folder, s3://bucket/path"),
        ("https://bucket.s3.amazonaws.com/hunter2", "expected file:///folder, s3://bucket/path"),
        ("s3:///hunter2", "it names no bucket"),
        ("s3://-hunter2", "it names no bucket"),
        ("s3://bucket//hunter2", "no empty parts"),
        ("gs://bucket/../hunter2", "none of dots alone"),
        ("s3://bucket/a\nhunter2", "no empty parts"),
        ("file://host/hunter2", "expected a folder with its whole path"),
        ("file:///", "expected a folder with its whole path"),
        ("file://hunter2", "expected a folder with its whole path"),
        ("", "expected file:///folder"),
    ],
)
def test_another_url_is_an_invalid_setting_and_not_repeated(url, words, tmp_path):
    with pytest.raises(InvalidSetting, match=r"^setting 'blobs' \(keyword blobs\): .*") as refused:
        load_settings(data=tmp_path, blobs=url)
    assert words in refused.value.problem
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
