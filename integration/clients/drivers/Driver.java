import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/**
 * What the drivers of all SDKs for the Java virtual machine share. Commands come on stdin, one a line: "get" asks as signing a
 * request does, "read" as well, "new" starts over with new objects of the SDK.
 */
abstract class Driver {
    /** Returns the access key ID, the secret access key and the session token, or null if the SDK finds nothing. */
    abstract String[] get() throws Exception;

    /** Forgets the objects of the SDK. */
    abstract void forget();

    void run() throws IOException {
        // Virtual machines take it from /etc/passwd.
        System.setProperty("user.home", System.getenv("HOME"));
        PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err); // some SDKs print advertisements
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String command; (command = commands.readLine()) != null;) {
            if (command.equals("new")) {
                forget();
            }
            answers.println(answer());
        }
        System.exit(0); // some SDKs leave threads running
    }

    private String answer() {
        try {
            String[] keys = get();
            if (keys == null) {
                return "{\"Error\": \"no credentials\"}";
            }
            return String.format("{\"AccessKeyId\": %s, \"SecretAccessKey\": %s, \"SessionToken\": %s}", quoted(keys[0]), quoted(keys[1]), quoted(keys[2]));
        } catch (Exception | Error e) {
            return "{\"Error\": " + quoted(explained(e)) + "}";
        }
    }

    /** What a stack trace shows, without the places in code. */
    private static String explained(Throwable e) {
        StringBuilder all = new StringBuilder(e.toString());
        for (Throwable cause = e.getCause(); cause != null; cause = cause.getCause()) {
            all.append("; caused by: ").append(cause);
        }
        return all.toString();
    }

    private static String quoted(String text) {
        if (text == null) {
            return "\"\"";
        }
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            json.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : String.valueOf(c));
        }
        return json.append('"').toString();
    }
}
