// Gets credentials as a program with async-aws does. Commands come on stdin, one a line: "get" asks as
// signing a request does, "new" starts over with a new provider chain.
use AsyncAws\Core\Configuration;
use AsyncAws\Core\Credentials\CacheProvider;
use AsyncAws\Core\Credentials\ChainProvider;

ini_set('display_errors', 'stderr');
require '/usr/share/php/AsyncAws/Core/autoload.php';

$current = null;
while (($line = fgets(STDIN)) !== false) {
    if (trim($line) === 'new') {
        $current = null;
    }
    try {
        $current ??= new CacheProvider(ChainProvider::createDefaultChain());
        $c = $current->getCredentials(Configuration::create([]));
        $answer = $c
            ? ['AccessKeyId' => $c->getAccessKeyId(), 'SecretAccessKey' => $c->getSecretKey(), 'SessionToken' => $c->getSessionToken()]
            : ['Error' => 'no credentials'];
    } catch (\Throwable $e) {
        $answer = ['Error' => $e->getMessage()];
    }
    echo json_encode($answer, JSON_UNESCAPED_SLASHES), "\n";
}
