#!/bin/sh
# Takes AWS Marketplace's events from a queue and posts each to tollgate. Needs the AWS CLI and curl.
#
# An event leaves the queue only when tollgate has answered 200, or has refused it for good: then it is put into the queue
# for refused events. Anything else is tried again after the queue's visibility timeout.
#
# QUEUE_URL, REFUSED_URL  outputs of deploy/events/queue.yaml, both in us-east-1
# TOLLGATE_URL            such as http://tollgate:19181
# TOKEN_FILE              the file that tollgate has as app_token_file
set -eu
: "${QUEUE_URL:?}" "${REFUSED_URL:?}" "${TOLLGATE_URL:?}" "${TOKEN_FILE:?}"
export AWS_DEFAULT_OUTPUT=text AWS_PAGER=''
tab=$(printf '\t')

settled() {
    aws sqs delete-message --region us-east-1 --queue-url "$QUEUE_URL" --receipt-handle "$1" > /dev/null
}

# EventBridge writes an event as one line of JSON without tabs, so a message is a line of two fields.
receive() {
    aws sqs receive-message --region us-east-1 --queue-url "$QUEUE_URL" --wait-time-seconds 20 --max-number-of-messages 1 \
        --query 'Messages[].[ReceiptHandle, Body]'
}

while true; do
    if ! message=$(receive); then
        echo "the queue cannot be read; will retry" >&2
        sleep 5
        continue
    fi
    handle=${message%%"$tab"*}
    event=${message#*"$tab"}
    case $handle in '' | None) continue ;; esac
    # The token goes by a pipe, so that no list of processes shows it. It is read each time: it may have been renewed.
    status=$(printf 'Authorization: Bearer %s\n' "$(cat "$TOKEN_FILE")" |
        curl --silent --show-error --max-time 30 --output /dev/null --write-out '%{http_code}' --header @- \
            --header 'Content-Type: application/json' --data-raw "$event" "$TOLLGATE_URL/v1/events/marketplace") || status=000
    case $status in
        200) settled "$handle" ;;
        400 | 413 | 422)
            echo "tollgate refused an event ($status): $event" >&2
            aws sqs send-message --region us-east-1 --queue-url "$REFUSED_URL" --message-body "$event" > /dev/null
            settled "$handle"
            ;;
        *) echo "tollgate did not take an event ($status); will retry" >&2 ;;
    esac
done
