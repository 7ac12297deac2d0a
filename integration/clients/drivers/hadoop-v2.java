import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.s3a.AWSCredentialProviderList;
import org.apache.hadoop.fs.s3a.auth.CredentialProviderListFactory;
import software.amazon.awssdk.auth.credentials.AwsCredentials;
import software.amazon.awssdk.auth.credentials.AwsSessionCredentials;

/** Gets credentials as Hadoop's S3A with the AWS SDK for Java 2 does. */
class Main extends Driver {
    private AWSCredentialProviderList providers;

    public static void main(String[] args) throws Exception {
        new Main().run();
    }

    @Override
    String[] get() throws Exception {
        if (providers == null) {
            providers = CredentialProviderListFactory.createAWSCredentialProviderList(new URI("s3a://bucket/"), new Configuration());
        }
        AwsCredentials c = providers.resolveCredentials();
        String token = c instanceof AwsSessionCredentials ? ((AwsSessionCredentials) c).sessionToken() : null;
        return new String[] {c.accessKeyId(), c.secretAccessKey(), token};
    }

    @Override
    void forget() {
        providers = null;
    }
}
