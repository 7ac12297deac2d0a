// Gets credentials as a program with aws-sdk for JavaScript v2 does. Commands come on stdin, one a line:
// "get" asks as signing a request does, "read" reads an object, "new" starts over with a new configuration.
const AWS = require('aws-sdk');

// Its provider for EC2 fails with sessions that end within this window, which is 15 seconds. Those of tests are short.
AWS.Credentials.prototype.expiryWindow = 1;

let config = new AWS.Config();

const ask = () => new Promise((resolve) => {
  config.getCredentials((err, c) => {
    c = c || config.credentials;
    resolve(err
      ? { Error: [err.message, err.originalError && err.originalError.message].filter(Boolean).join(': ') }
      : { AccessKeyId: c.accessKeyId, SecretAccessKey: c.secretAccessKey, SessionToken: c.sessionToken });
  });
});

let s3;

const read = async () => {
  s3 = s3 || new AWS.S3({ endpoint: process.env.S3_URL, s3ForcePathStyle: true });
  try {
    const object = await s3.getObject({ Bucket: 'bucket0', Key: 'key.csv' }).promise();
    return { Object: object.Body.toString() };
  } catch (err) {
    return { Error: err.message };
  }
};

(async () => {
  for await (const line of require('readline').createInterface({ input: process.stdin })) {
    if (line === 'new') config = new AWS.Config();
    console.log(JSON.stringify(await (line === 'read' ? read() : ask())));
  }
})();
