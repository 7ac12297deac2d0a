"""Reads from S3 as a program with rasterio does, which has GDAL inside: the credentials are those that it signs with. Commands
come on stdin, one a line: "get" asks as every read does, "new" starts over as a new process does."""
import itertools
import json
import os
import sys
from urllib.parse import urlsplit

import rasterio
from rasterio.io import MemoryFile

# The object's 8 bytes, as the pixels of an image.
IMAGE = b"""<VRTDataset rasterXSize="8" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">
<SourceFilename relativeToVRT="0">/vsis3/bucket0/key.csv</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset>
<LineOffset>8</LineOffset></VRTRasterBand></VRTDataset>"""

options = {
    "AWS_S3_ENDPOINT": urlsplit(os.environ["S3_URL"]).netloc,
    "AWS_HTTPS": "NO",
    "AWS_VIRTUAL_HOSTING": "FALSE",
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "ALL",
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/bucket0",
}

lines = iter(sys.stdin.readline, "")
if sys.argv[1:]:  # it is the new process
    lines = itertools.chain([sys.argv[1]], lines)

for line in lines:
    if line.strip() == "new":
        os.execv(sys.executable, sys.orig_argv + ["get"])
    try:
        with rasterio.Env(**options), MemoryFile(IMAGE, ext=".vrt") as file, file.open() as image:
            answer = {"Object": image.read(1).tobytes().decode()}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
