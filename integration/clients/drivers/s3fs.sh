# Reads from a bucket that s3fs mounts. Commands come on stdin, one a line: "get" asks as every read does, "new" mounts it again. The
# options are those of the output.
bucket=$HOME/bucket
mkdir -p "$bucket"
trap 'umount "$bucket" 2>/dev/null' EXIT

while read -r command; do
  if [ "$command" = new ]; then
    umount "$bucket" 2>/dev/null
  fi
  # shellcheck disable=SC2086 # several options
  if ! grep -q " $bucket " /proc/mounts; then
    s3fs bucket0 "$bucket" -o "url=$S3_URL,use_path_request_style,max_stat_cache_size=0,direct_io" $DRIVER_OPTIONS >"$HOME/log" 2>&1
  fi
  if object=$(cat "$bucket/key.csv" 2>>"$HOME/log"); then
    printf '{"Object": "%s\\n"}\n' "$(printf %s "$object" | sed -z 's/\n/\\n/g')"
  else
    printf '{"Error": "%s"}\n' "$(tr -d '"\\\n' <"$HOME/log" | cut -c1-500)"
  fi
done
