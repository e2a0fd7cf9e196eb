-- Certificates of the gate as they were applied, and what explored garments have shown of them since. A service with
-- CERTIFICATE_GUARD reads the newest: after a breach, or once expired, it trusts the primary with nothing.
create table if not exists gate_certificates (
  id bigint generated always as identity primary key,
  model_version text not null,
  threshold double precision not null,
  margin double precision not null,
  certificate jsonb not null,
  applied_at timestamptz not null default now(),
  expires_at timestamptz not null,
  fortune double precision not null default 1 check (fortune >= 0),  -- e-value of "the certified loss is broken"
  explored integer not null default 0,
  losses integer not null default 0,
  checked_at timestamptz,
  ended_at timestamptz,  -- broken, or expired before its day
  reason text
);
create index if not exists gate_certificates_model on gate_certificates (model_version, applied_at desc);
