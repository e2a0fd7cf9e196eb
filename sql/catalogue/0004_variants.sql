-- The SKUs under which a shop system keeps the stock of each size (SPEC §11): which product and size a row of stock means. A size is
-- null where one SKU stands for several sizes of its product.
create table variant_skus (
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  sku_folded text not null check (sku_folded <> ''),
  sku text not null,
  external_id text not null,
  size text,
  primary key (brand, sku_folded)
);
create index variant_skus_product on variant_skus (brand, external_id);
