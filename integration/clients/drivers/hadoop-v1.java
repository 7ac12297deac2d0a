import com.amazonaws.auth.AWSCredentials;
import com.amazonaws.auth.AWSSessionCredentials;
import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.s3a.AWSCredentialProviderList;
import org.apache.hadoop.fs.s3a.S3AUtils;

/** Gets credentials as Hadoop's S3A with the AWS SDK for Java 1 does. */
class Main extends Driver {
    private AWSCredentialProviderList providers;

    public static void main(String[] args) throws Exception {
        new Main().run();
    }

    @Override
    String[] get() throws Exception {
        if (providers == null) {
            providers = S3AUtils.createAWSCredentialProviderSet(new URI("s3a://bucket/"), new Configuration());
        }
        AWSCredentials c = providers.getCredentials();
        String token = c instanceof AWSSessionCredentials ? ((AWSSessionCredentials) c).getSessionToken() : null;
        return new String[] {c.getAWSAccessKeyId(), c.getAWSSecretKey(), token};
    }

    @Override
    void forget() {
        providers = null;
    }
}
