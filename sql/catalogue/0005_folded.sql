-- A letter that is written with ` (the Arabic ain) is folded with ' now, as the sign itself is: ids and SKUs with one are folded anew.
update raw_products set external_id_folded = null where external_id_folded like '%`%';
update variant_skus v set sku_folded = replace(sku_folded, '`', '''')
  where sku_folded like '%`%'
    and not exists (select from variant_skus o where o.brand = v.brand and o.sku_folded = replace(v.sku_folded, '`', ''''));
