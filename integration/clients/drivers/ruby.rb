# Gets credentials as a program with the AWS SDK for Ruby does. Commands come on stdin, one a line: "get"
# asks as signing a request does, "new" starts over with a new provider chain.
require 'json'
require 'aws-sdk-core'

current = nil
$stdin.each_line do |line|
  current = nil if line.strip == 'new'
  answer =
    begin
      current ||= Aws::CredentialProviderChain.new.resolve
      c = current&.credentials
      if c&.set?
        { AccessKeyId: c.access_key_id, SecretAccessKey: c.secret_access_key, SessionToken: c.session_token }
      else
        current = nil
        { Error: 'no credentials' }
      end
    rescue StandardError => e
      { Error: e.message }
    end
  puts JSON.generate(answer)
  $stdout.flush
end
