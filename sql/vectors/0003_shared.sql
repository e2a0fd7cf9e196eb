-- A picture that many products share ("no photo yet", a size chart) says nothing about which product it is: `unde-recog index`
-- marks its rows, HNSW indexes leave them out, and an exact scan counts them as unlike anything (SPEC §6).
alter table sku_image_embeddings add column if not exists shared boolean not null default false;
