// Gets credentials as a program with aws-sdk for JavaScript v2 does. Commands come on stdin, one a line:
// "get" asks as signing a request does, "new" starts over with a new configuration.
const AWS = require('aws-sdk');

let config = new AWS.Config();

const ask = () => new Promise((resolve) => {
  config.getCredentials((err, c) => {
    c = c || config.credentials;
    resolve(err
      ? { Error: [err.message, err.originalError && err.originalError.message].filter(Boolean).join(': ') }
      : { AccessKeyId: c.accessKeyId, SecretAccessKey: c.secretAccessKey, SessionToken: c.sessionToken });
  });
});

(async () => {
  for await (const line of require('readline').createInterface({ input: process.stdin })) {
    if (line === 'new') config = new AWS.Config();
    console.log(JSON.stringify(await ask()));
  }
})();
