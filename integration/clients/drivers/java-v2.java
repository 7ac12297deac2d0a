import software.amazon.awssdk.auth.credentials.AwsCredentials;
import software.amazon.awssdk.auth.credentials.AwsSessionCredentials;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;

/** Gets credentials as a program with the AWS SDK for Java 2 does. */
class Main extends Driver {
    private DefaultCredentialsProvider provider;

    public static void main(String[] args) throws Exception {
        new Main().run();
    }

    @Override
    String[] get() {
        if (provider == null) {
            provider = DefaultCredentialsProvider.builder().build(); // as each service client does
        }
        AwsCredentials c = provider.resolveCredentials();
        String token = c instanceof AwsSessionCredentials ? ((AwsSessionCredentials) c).sessionToken() : null;
        return new String[] {c.accessKeyId(), c.secretAccessKey(), token};
    }

    @Override
    void forget() {
        provider = null;
    }
}
