# Gets credentials as a program with fog-aws and use_iam_profile does. Commands come on stdin, one a line:
# "get" asks as making a connection does, and so does "new".
require 'json'
require 'fog/aws'

$stdin.each_line do
  answer =
    begin
      c = Fog::AWS::Storage.fetch_credentials(use_iam_profile: true)
      if c[:aws_access_key_id]
        { AccessKeyId: c[:aws_access_key_id], SecretAccessKey: c[:aws_secret_access_key], SessionToken: c[:aws_session_token] }
      else
        { Error: 'no credentials' }
      end
    rescue StandardError => e
      { Error: e.message }
    end
  puts JSON.generate(answer)
  $stdout.flush
end
