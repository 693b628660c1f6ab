"""Archives in memory, such as no packer would make them."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping

LINK = "link to "
"""Before the content of a member that is a link to the rest."""


def packed_tar(members: Mapping[str, bytes | str]) -> bytes:
    """A .tar.gz; a text `LINK...` stands for a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content.removeprefix(LINK)
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def packed_zip(members: Mapping[str, bytes | str]) -> bytes:
    """A .zip; a text `LINK...` stands for a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = content.removeprefix(LINK).encode()  # noqa: PLW2901 -- what a zip holds of a link
            archive.writestr(info, content)
    return buffer.getvalue()
