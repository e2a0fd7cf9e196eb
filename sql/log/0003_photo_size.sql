-- The size of the photo that the boxes are in, in pixels: the lab draws them to scale. Null in older rows.
alter table recognition_requests add column photo_width integer check (photo_width > 0), add column photo_height integer check (photo_height > 0);
