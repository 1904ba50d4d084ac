-- Operations, activity and intervals only grow; each of these listings would otherwise read the whole table.
CREATE INDEX operations_by_target ON operations (target_uid, seq);
CREATE INDEX operations_running ON operations (seq) WHERE ended = 0;
CREATE INDEX activities_by_time ON activities (at);
CREATE INDEX intervals_by_deployment ON intervals (deployment_rkey, start_at);
