"""Gets credentials as a program with aiobotocore, aioboto3 or s3fs for Python does. Commands come on stdin, one a line: "get" asks
as signing a request does, "new" starts over with a new session."""
import asyncio
import json
import random
import sys

from aiobotocore.session import get_session

# As in botocore.py: its provider for EC2 then asks again before each use.
random.randint = lambda least, most: 0

session = credentials = None


async def ask():
    global session, credentials
    session = session or get_session()
    credentials = credentials or await session.get_credentials()
    if credentials is None:
        session = None
        return {"Error": "Unable to locate credentials"}
    c = await credentials.get_frozen_credentials()
    return {"AccessKeyId": c.access_key, "SecretAccessKey": c.secret_key, "SessionToken": c.token}


async def main():
    global session, credentials
    for line in iter(sys.stdin.readline, ""):
        if line.strip() == "new":
            session = credentials = None
        try:
            answer = await ask()
        except Exception as err:
            answer = {"Error": str(err)}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
