"""Gets credentials as a program with the AWS Common Runtime does. Commands come on stdin, one a line:
"get" asks as signing a request does, "new" starts over with a new provider chain."""
import json
import sys

from awscrt.auth import AwsCredentialsProvider
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup

group = EventLoopGroup(1)
bootstrap = ClientBootstrap(group, DefaultHostResolver(group))
current = AwsCredentialsProvider.new_default_chain(bootstrap)

for line in iter(sys.stdin.readline, ""):
    if line.strip() == "new":
        current = AwsCredentialsProvider.new_default_chain(bootstrap)
    try:
        c = current.get_credentials().result(20)
        answer = {"AccessKeyId": c.access_key_id, "SecretAccessKey": c.secret_access_key, "SessionToken": c.session_token}
    except Exception as err:
        answer = {"Error": str(err)}
    print(json.dumps(answer), flush=True)
