-- A row a request, a row an item (SPEC §4). Calibration and quality read the items; the request's scalars summarise them
-- (booleans = any, numbers = the minimum).
create table recognition_requests (
  id uuid primary key,
  user_id text,
  photo_url text,
  user_mall text,
  detected_items jsonb not null default '[]',
  detection_time_ms integer,
  tags jsonb not null default '{}',
  tagging_time_ms integer,
  search_results jsonb not null default '[]',
  search_time_ms integer,
  availability_time_ms integer,
  final_matches jsonb not null default '[]',
  rerank_time_ms integer,
  total_time_ms integer,
  items_detected smallint,
  items_matched smallint,
  user_feedback jsonb,
  used_ximilar_booster boolean,
  used_ximilar_tagging boolean,
  pgvector_top1_score double precision,
  pgvector_margin double precision,
  ximilar_top1_score double precision,
  candidates_after_availability smallint,
  created_at timestamptz not null default now()
);
create index recognition_requests_user on recognition_requests (user_id);
create index recognition_requests_created on recognition_requests (created_at desc);

create table recognition_items (
  request_id uuid not null references recognition_requests (id) on delete cascade,
  item_index smallint not null check (item_index >= 0),
  category text not null,
  box jsonb not null,
  used_ximilar_booster boolean not null default false,
  used_ximilar_tagging boolean not null default false,
  pgvector_top1_score double precision,
  pgvector_margin double precision,
  ximilar_top1_score double precision,
  candidates_after_availability smallint,
  ximilar_margin double precision,
  pgvector_style_margin double precision,
  pgvector_list jsonb not null default '[]',
  ximilar_list jsonb not null default '[]',
  merged_list jsonb not null default '[]',
  final_matches jsonb not null default '[]',
  match_type text not null check (match_type in ('exact','similar','style','none')),
  reranked boolean not null default false,
  tags jsonb not null default '{}',
  model_version text not null,
  confidence_threshold double precision,
  margin_threshold double precision,
  settings jsonb not null default '{}',
  gate_confident boolean,
  explored boolean not null default false,
  propensity double precision check (propensity >= 0 and propensity <= 1),
  explored_list jsonb,
  credits integer not null default 0 check (credits >= 0),
  tokens jsonb not null default '{}',
  degraded jsonb not null default '[]',
  created_at timestamptz not null default now(),
  primary key (request_id, item_index)
);
create index recognition_items_created on recognition_items (created_at desc);
create index recognition_items_model on recognition_items (model_version, created_at desc);
