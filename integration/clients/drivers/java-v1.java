import com.amazonaws.auth.AWSCredentials;
import com.amazonaws.auth.AWSCredentialsProviderChain;
import com.amazonaws.auth.AWSSessionCredentials;
import com.amazonaws.auth.DefaultAWSCredentialsProviderChain;
import com.amazonaws.auth.profile.ProfileCredentialsProvider;
import java.lang.reflect.Field;
import java.util.List;

/** Gets credentials as a program with the AWS SDK for Java 1 does. */
class Main extends Driver {
    private DefaultAWSCredentialsProviderChain provider;

    public static void main(String[] args) throws Exception {
        new Main().run();
    }

    @Override
    String[] get() throws Exception {
        if (provider == null) {
            provider = new DefaultAWSCredentialsProviderChain();
            readFilesAgain();
        }
        AWSCredentials c = provider.getCredentials();
        String token = c instanceof AWSSessionCredentials ? ((AWSSessionCredentials) c).getSessionToken() : null;
        return new String[] {c.getAWSAccessKeyId(), c.getAWSSecretKey(), token};
    }

    /** The chain looks every 5 minutes whether a file has changed. Sessions of tests are shorter. */
    private void readFilesAgain() throws Exception {
        Field all = AWSCredentialsProviderChain.class.getDeclaredField("credentialsProviders");
        all.setAccessible(true);
        for (Object one : (List<?>) all.get(provider)) {
            if (one instanceof ProfileCredentialsProvider) {
                ((ProfileCredentialsProvider) one).setRefreshIntervalNanos(1);
            }
        }
    }

    @Override
    void forget() {
        provider = null;
    }
}
