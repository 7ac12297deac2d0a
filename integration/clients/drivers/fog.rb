# Gets credentials as a program with fog-aws and use_iam_profile does. Commands come on stdin, one a line:
# "get" asks as making a connection does, and so does "new"; "read" reads an object.
require 'json'
require 'fog/aws'

storage = nil
$stdin.each_line do |line|
  answer =
    begin
      if line.strip == 'read'
        storage ||= Fog::Storage.new(provider: 'AWS', use_iam_profile: true, region: ENV['AWS_REGION'], endpoint: ENV['S3_URL'], path_style: true)
        puts JSON.generate(Object: storage.get_object('bucket0', 'key.csv').body)
        $stdout.flush
        next
      end
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
