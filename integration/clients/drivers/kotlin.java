import aws.sdk.kotlin.runtime.auth.credentials.DefaultChainCredentialsProvider;
import aws.smithy.kotlin.runtime.auth.awscredentials.Credentials;
import aws.smithy.kotlin.runtime.collections.AttributesKt;
import kotlin.coroutines.EmptyCoroutineContext;
import kotlinx.coroutines.BuildersKt;

/** Gets credentials as a program with the AWS SDK for Kotlin does. */
class Main extends Driver {
    private DefaultChainCredentialsProvider provider;

    public static void main(String[] args) throws Exception {
        new Main().run();
    }

    @Override
    String[] get() throws Exception {
        if (provider == null) {
            provider = new DefaultChainCredentialsProvider();
        }
        Credentials c = (Credentials) BuildersKt.runBlocking(EmptyCoroutineContext.INSTANCE,
            (scope, continuation) -> provider.resolve(AttributesKt.emptyAttributes(), continuation));
        return new String[] {c.getAccessKeyId(), c.getSecretAccessKey(), c.getSessionToken()};
    }

    @Override
    void forget() {
        provider = null;
    }
}
