-- A version may be on trial: a share of requests reads it (CANARY_SHARE) until it is chosen or the trial is stopped.
alter table version_choices drop constraint if exists version_choices_action_check;
alter table version_choices add constraint version_choices_action_check
  check (action in ('use', 'drop', 'try', 'stop'));
