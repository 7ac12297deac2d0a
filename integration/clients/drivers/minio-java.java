import io.minio.credentials.Credentials;
import io.minio.credentials.IamAwsProvider;

/** Gets credentials as a program with minio-java does. */
class Main extends Driver {
    private IamAwsProvider provider;

    public static void main(String[] args) throws Exception {
        new Main().run();
    }

    @Override
    String[] get() {
        if (provider == null) {
            provider = new IamAwsProvider(null, null);
        }
        Credentials c = provider.fetch();
        return new String[] {c.accessKey(), c.secretKey(), c.sessionToken()};
    }

    @Override
    void forget() {
        provider = null;
    }
}
