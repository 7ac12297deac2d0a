// Gets credentials as a program with the AWS SDK for JavaScript v3 does. Commands come on stdin, one a
// line: "get" asks as signing a request does, "new" starts over with a new provider chain.
const { fromNodeProviderChain } = require('@aws-sdk/credential-providers');

let provider = fromNodeProviderChain();

(async () => {
  for await (const line of require('readline').createInterface({ input: process.stdin })) {
    if (line === 'new') provider = fromNodeProviderChain();
    try {
      const c = await provider();
      console.log(JSON.stringify({ AccessKeyId: c.accessKeyId, SecretAccessKey: c.secretAccessKey, SessionToken: c.sessionToken }));
    } catch (err) {
      console.log(JSON.stringify({ Error: String(err.message || err) }));
    }
  }
})();
