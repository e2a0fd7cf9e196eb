-- A version of another width leaves `embedding` empty, in tables too that an earlier release adopted, where it had to be filled;
-- and vectors of two kB and more stay in line there as well. Nothing is touched where it is so already.
do $$ begin
  if exists (select from pg_attribute where attrelid = 'sku_image_embeddings'::regclass
             and attname = 'embedding' and attnotnull) then
    alter table sku_image_embeddings alter column embedding drop not null;
  end if;
  if exists (select from pg_attribute where attrelid = 'sku_image_embeddings'::regclass
             and attname = 'embedding_other' and attstorage <> 'p') then
    alter table sku_image_embeddings alter column embedding_other set storage plain;
  end if;
end $$;
