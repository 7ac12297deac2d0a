"""Reads from S3 as a program with GDAL does: the credentials are those that it signs with. Commands come on stdin,
one a line: "get" asks as every read does, "new" starts over as a new process does."""
import json
import os
import sys
from urllib.parse import urlsplit

from osgeo import gdal

gdal.UseExceptions()
gdal.SetConfigOption("AWS_S3_ENDPOINT", urlsplit(os.environ["S3_URL"]).netloc)
gdal.SetConfigOption("AWS_HTTPS", "NO")
gdal.SetConfigOption("AWS_VIRTUAL_HOSTING", "FALSE")
gdal.SetConfigOption("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        gdal.VSICurlClearCache()
    try:
        gdal.VSICurlPartialClearCache("/vsis3/bucket0")  # otherwise the object is not read again
        gdal.ErrorReset()
        file = gdal.VSIFOpenL("/vsis3/bucket0/key.csv", "rb")
        if file is None:
            answer = {"Error": gdal.GetLastErrorMsg() or "cannot open"}
        else:
            answer = {"Object": gdal.VSIFReadL(1, 1000, file).decode()}
            gdal.VSIFCloseL(file)
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
