-- pg_dump --inserts of a database of the release before sql/catalogue/0002_shop_data.sql, with a few rows.
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
COMMENT ON EXTENSION vector IS 'vector data type and ivfflat and hnsw access methods';
CREATE TABLE public.embedding_failures (
    brand text NOT NULL,
    sku_id text NOT NULL,
    image_url text NOT NULL,
    version text NOT NULL,
    kind text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    tried_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.embedding_versions (
    namespace text DEFAULT 'default'::text NOT NULL,
    version text NOT NULL,
    model text NOT NULL,
    dims smallint NOT NULL,
    status text DEFAULT 'building'::text NOT NULL,
    report jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    completed_at timestamp with time zone,
    CONSTRAINT embedding_versions_dims_check CHECK ((dims > 0)),
    CONSTRAINT embedding_versions_status_check CHECK ((status = ANY (ARRAY['building'::text, 'complete'::text]))),
    CONSTRAINT embedding_versions_version_check CHECK ((version <> ''::text))
);
CREATE TABLE public.item_embeddings (
    org_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    brand text NOT NULL,
    item_id text NOT NULL,
    image_hash text DEFAULT ''::text NOT NULL,
    namespace text DEFAULT 'default'::text NOT NULL,
    version text NOT NULL,
    modality text NOT NULL,
    dims smallint NOT NULL,
    vector public.vector NOT NULL,
    metadata_hash text,
    generated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT item_embeddings_brand_check CHECK ((brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'::text)),
    CONSTRAINT item_embeddings_check CHECK ((public.vector_dims(vector) = dims)),
    CONSTRAINT item_embeddings_dims_check CHECK ((dims > 0)),
    CONSTRAINT item_embeddings_modality_check CHECK ((modality = ANY (ARRAY['text'::text, 'image'::text]))),
    CONSTRAINT item_embeddings_version_check CHECK ((version <> ''::text))
);
CREATE TABLE public.paid_answers (
    kind text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT paid_answers_key_check CHECK ((key ~ '^[0-9a-f]{64}$'::text))
);
CREATE TABLE public.raw_availability (
    brand text NOT NULL,
    store_id text NOT NULL,
    product_id text NOT NULL,
    sizes_in_stock jsonb NOT NULL,
    fetched_at timestamp with time zone NOT NULL,
    CONSTRAINT raw_availability_brand_check CHECK ((brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'::text)),
    CONSTRAINT raw_availability_sizes_in_stock_check CHECK ((jsonb_typeof(sizes_in_stock) = 'array'::text))
);
CREATE TABLE public.raw_products (
    id bigint NOT NULL,
    source text NOT NULL,
    external_id text NOT NULL,
    brand text NOT NULL,
    style_id text,
    name text,
    description text,
    price numeric,
    currency text,
    category text,
    category_canonical text DEFAULT 'other'::text NOT NULL,
    gender text,
    colour text,
    composition text,
    sizes jsonb DEFAULT '[]'::jsonb NOT NULL,
    image_urls jsonb DEFAULT '[]'::jsonb NOT NULL,
    image_views jsonb DEFAULT '[]'::jsonb NOT NULL,
    collage_url text,
    image_status text DEFAULT 'pending'::text NOT NULL,
    ximilar_status text DEFAULT 'pending'::text NOT NULL,
    index_scope text DEFAULT 'pgvector'::text NOT NULL,
    ximilar_synced_urls jsonb DEFAULT '[]'::jsonb NOT NULL,
    ximilar_target_count smallint DEFAULT 2 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT raw_products_brand_check CHECK ((brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'::text)),
    CONSTRAINT raw_products_category_canonical_check CHECK ((category_canonical = ANY (ARRAY['top'::text, 'outerwear'::text, 'dress'::text, 'bottom'::text, 'shoes'::text, 'bag'::text, 'hat'::text, 'accessory'::text, 'other'::text]))),
    CONSTRAINT raw_products_check CHECK ((jsonb_array_length(image_views) = jsonb_array_length(image_urls))),
    CONSTRAINT raw_products_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT raw_products_external_id_check CHECK ((external_id <> ''::text)),
    CONSTRAINT raw_products_image_status_check CHECK ((image_status = ANY (ARRAY['pending'::text, 'uploaded'::text, 'collage_ready'::text]))),
    CONSTRAINT raw_products_image_urls_check CHECK ((jsonb_typeof(image_urls) = 'array'::text)),
    CONSTRAINT raw_products_image_views_check CHECK ((jsonb_typeof(image_views) = 'array'::text)),
    CONSTRAINT raw_products_index_scope_check CHECK ((index_scope = ANY (ARRAY['off'::text, 'pgvector'::text, 'pilot'::text]))),
    CONSTRAINT raw_products_price_check CHECK ((price >= (0)::numeric)),
    CONSTRAINT raw_products_sizes_check CHECK ((jsonb_typeof(sizes) = 'array'::text)),
    CONSTRAINT raw_products_ximilar_status_check CHECK ((ximilar_status = ANY (ARRAY['pending'::text, 'partial'::text, 'synced'::text]))),
    CONSTRAINT raw_products_ximilar_synced_urls_check CHECK ((jsonb_typeof(ximilar_synced_urls) = 'array'::text)),
    CONSTRAINT raw_products_ximilar_target_count_check CHECK ((ximilar_target_count >= 0))
);
ALTER TABLE public.raw_products ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.raw_products_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.raw_stores (
    id bigint NOT NULL,
    brand text NOT NULL,
    store_id text NOT NULL,
    name text NOT NULL,
    address text,
    city text,
    country text,
    mall_name text,
    floor text,
    latitude double precision,
    longitude double precision,
    CONSTRAINT raw_stores_brand_check CHECK ((brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'::text)),
    CONSTRAINT raw_stores_latitude_check CHECK (((latitude >= ('-90'::integer)::double precision) AND (latitude <= (90)::double precision))),
    CONSTRAINT raw_stores_longitude_check CHECK (((longitude >= ('-180'::integer)::double precision) AND (longitude <= (180)::double precision))),
    CONSTRAINT raw_stores_store_id_check CHECK ((store_id <> ''::text))
);
ALTER TABLE public.raw_stores ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.raw_stores_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.recognition_items (
    request_id uuid NOT NULL,
    item_index smallint NOT NULL,
    category text NOT NULL,
    box jsonb NOT NULL,
    used_ximilar_booster boolean DEFAULT false NOT NULL,
    used_ximilar_tagging boolean DEFAULT false NOT NULL,
    pgvector_top1_score double precision,
    pgvector_margin double precision,
    ximilar_top1_score double precision,
    candidates_after_availability smallint,
    ximilar_margin double precision,
    pgvector_style_margin double precision,
    pgvector_list jsonb DEFAULT '[]'::jsonb NOT NULL,
    ximilar_list jsonb DEFAULT '[]'::jsonb NOT NULL,
    merged_list jsonb DEFAULT '[]'::jsonb NOT NULL,
    final_matches jsonb DEFAULT '[]'::jsonb NOT NULL,
    match_type text NOT NULL,
    reranked boolean DEFAULT false NOT NULL,
    tags jsonb DEFAULT '{}'::jsonb NOT NULL,
    model_version text NOT NULL,
    confidence_threshold double precision,
    margin_threshold double precision,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    gate_confident boolean,
    explored boolean DEFAULT false NOT NULL,
    propensity double precision,
    explored_list jsonb,
    credits integer DEFAULT 0 NOT NULL,
    tokens jsonb DEFAULT '{}'::jsonb NOT NULL,
    degraded jsonb DEFAULT '[]'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT recognition_items_credits_check CHECK ((credits >= 0)),
    CONSTRAINT recognition_items_item_index_check CHECK ((item_index >= 0)),
    CONSTRAINT recognition_items_match_type_check CHECK ((match_type = ANY (ARRAY['exact'::text, 'similar'::text, 'style'::text, 'none'::text]))),
    CONSTRAINT recognition_items_propensity_check CHECK (((propensity >= (0)::double precision) AND (propensity <= (1)::double precision)))
);
CREATE TABLE public.recognition_requests (
    id uuid NOT NULL,
    user_id text,
    photo_url text,
    user_mall text,
    detected_items jsonb DEFAULT '[]'::jsonb NOT NULL,
    detection_time_ms integer,
    tags jsonb DEFAULT '{}'::jsonb NOT NULL,
    tagging_time_ms integer,
    search_results jsonb DEFAULT '[]'::jsonb NOT NULL,
    search_time_ms integer,
    availability_time_ms integer,
    final_matches jsonb DEFAULT '[]'::jsonb NOT NULL,
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
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    photo_width integer,
    photo_height integer,
    CONSTRAINT recognition_requests_photo_height_check CHECK ((photo_height > 0)),
    CONSTRAINT recognition_requests_photo_width_check CHECK ((photo_width > 0))
);
CREATE TABLE public.sku_image_embeddings (
    id bigint NOT NULL,
    brand text NOT NULL,
    sku_id text NOT NULL,
    image_url text NOT NULL,
    image_rank smallint NOT NULL,
    image_hash text NOT NULL,
    embedding public.vector(512) NOT NULL,
    model_version text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT sku_image_embeddings_brand_check CHECK ((brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'::text)),
    CONSTRAINT sku_image_embeddings_image_hash_check CHECK ((image_hash ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT sku_image_embeddings_image_rank_check CHECK (((image_rank >= 0) AND (image_rank <= 6))),
    CONSTRAINT sku_image_embeddings_model_version_check CHECK ((model_version <> ''::text))
);
ALTER TABLE ONLY public.sku_image_embeddings ALTER COLUMN embedding SET STORAGE PLAIN;
ALTER TABLE public.sku_image_embeddings ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.sku_image_embeddings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.unde_migrations (
    logical text NOT NULL,
    name text NOT NULL,
    md5 text,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
INSERT INTO public.embedding_versions VALUES ('default', 'classical-1+whole', 'classical', 512, 'complete', '{}', '2026-11-20 00:00:00+00', '2026-11-20 00:00:00+00');
INSERT INTO public.raw_availability VALUES ('hm', '1', 'p1', '["M"]', '2026-11-20 10:00:00+00');
INSERT INTO public.raw_products OVERRIDING SYSTEM VALUE VALUES (1, 'csv', 'p1', 'hm', NULL, 'thing 1', NULL, 10, 'EUR', 'shirt', 'top', NULL, NULL, NULL, '[]', '["storage:a.jpg"]', '["front"]', NULL, 'pending', 'pending', 'pgvector', '[]', 2, '2026-11-20 00:00:00+00', '2026-11-20 00:00:00+00');
INSERT INTO public.raw_products OVERRIDING SYSTEM VALUE VALUES (2, 'csv', 'p2', 'hm', NULL, 'thing 2', NULL, 20, 'EUR', 'shirt', 'top', NULL, NULL, NULL, '[]', '["storage:a.jpg"]', '["front"]', NULL, 'pending', 'pending', 'pgvector', '[]', 2, '2026-11-20 00:00:00+00', '2026-11-20 00:00:00+00');
INSERT INTO public.raw_products OVERRIDING SYSTEM VALUE VALUES (3, 'csv', 'p3', 'hm', NULL, 'thing 3', NULL, 30, 'EUR', 'shirt', 'top', NULL, NULL, NULL, '[]', '["storage:a.jpg"]', '["front"]', NULL, 'pending', 'pending', 'pgvector', '[]', 2, '2026-11-20 00:00:00+00', '2026-11-20 00:00:00+00');
INSERT INTO public.raw_products OVERRIDING SYSTEM VALUE VALUES (4, 'csv', 'p4', 'bj_rn_borg', NULL, 'thing 4', NULL, 40, 'EUR', 'shirt', 'top', NULL, NULL, NULL, '[]', '["storage:a.jpg"]', '["front"]', NULL, 'pending', 'pending', 'pgvector', '[]', 2, '2026-11-20 00:00:00+00', '2026-11-20 00:00:00+00');
INSERT INTO public.raw_stores OVERRIDING SYSTEM VALUE VALUES (1, 'hm', '1', 'H&M', NULL, NULL, NULL, 'Mall', '2', NULL, NULL);
INSERT INTO public.recognition_items VALUES ('00000000-0000-0000-0000-000000000001', 0, 'top', '[0, 0, 9, 9]', false, false, NULL, NULL, NULL, NULL, NULL, NULL, '[]', '[]', '[]', '[]', 'exact', false, '{}', 'classical-1+whole', NULL, NULL, '{}', NULL, false, NULL, NULL, 0, '{}', '[]', '2026-11-20 00:00:00+00');
INSERT INTO public.recognition_requests VALUES ('00000000-0000-0000-0000-000000000001', 'u1', NULL, NULL, '[]', NULL, '{}', NULL, '[]', NULL, NULL, '[]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-20 00:00:00+00', 600, 800);
INSERT INTO public.sku_image_embeddings OVERRIDING SYSTEM VALUE VALUES (1, 'hm', 'p1', 'storage:a.jpg', 0, '1111111111111111111111111111111111111111111111111111111111111111', '[1,2,3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]', 'classical-1+whole', '{}', '2026-11-20 00:00:00+00');
INSERT INTO public.sku_image_embeddings OVERRIDING SYSTEM VALUE VALUES (2, 'hm', 'p2', 'storage:a.jpg', 0, '2222222222222222222222222222222222222222222222222222222222222222', '[2,2,3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]', 'classical-1+whole', '{}', '2026-11-20 00:00:00+00');
INSERT INTO public.sku_image_embeddings OVERRIDING SYSTEM VALUE VALUES (3, 'hm', 'p3', 'storage:a.jpg', 0, '3333333333333333333333333333333333333333333333333333333333333333', '[3,2,3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]', 'classical-1+whole', '{}', '2026-11-20 00:00:00+00');
INSERT INTO public.unde_migrations VALUES ('catalogue', '0001_catalogue.sql', '87d7c6409c520aa8ea8ed41a30a1cf86', '2026-11-20 00:00:00+00');
INSERT INTO public.unde_migrations VALUES ('vectors', '0001_vectors.sql', '4a52aa11fe681ff35332dc254a081992', '2026-11-20 00:00:00+00');
INSERT INTO public.unde_migrations VALUES ('log', '0001_log.sql', '8854e6b12f9886cf679ef763abb6ca7d', '2026-11-20 00:00:00+00');
INSERT INTO public.unde_migrations VALUES ('log', '0002_paid_answers.sql', '461f2a5da2ade8639ba8af3f54247991', '2026-11-20 00:00:00+00');
INSERT INTO public.unde_migrations VALUES ('log', '0003_photo_size.sql', 'f6858ba5bba8f9167e1a87a040ece40c', '2026-11-20 00:00:00+00');
SELECT pg_catalog.setval('public.raw_products_id_seq', 4, true);
SELECT pg_catalog.setval('public.raw_stores_id_seq', 1, true);
SELECT pg_catalog.setval('public.sku_image_embeddings_id_seq', 3, true);
ALTER TABLE ONLY public.embedding_failures
    ADD CONSTRAINT embedding_failures_pkey PRIMARY KEY (version, brand, sku_id, image_url);
ALTER TABLE ONLY public.embedding_versions
    ADD CONSTRAINT embedding_versions_pkey PRIMARY KEY (namespace, version);
ALTER TABLE ONLY public.item_embeddings
    ADD CONSTRAINT item_embeddings_pkey PRIMARY KEY (org_id, brand, item_id, image_hash, namespace, version, modality);
ALTER TABLE ONLY public.paid_answers
    ADD CONSTRAINT paid_answers_pkey PRIMARY KEY (kind, key);
ALTER TABLE ONLY public.raw_products
    ADD CONSTRAINT raw_products_brand_external_id_key UNIQUE (brand, external_id);
ALTER TABLE ONLY public.raw_products
    ADD CONSTRAINT raw_products_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.raw_products
    ADD CONSTRAINT raw_products_source_external_id_key UNIQUE (source, external_id);
ALTER TABLE ONLY public.raw_stores
    ADD CONSTRAINT raw_stores_brand_store_id_key UNIQUE (brand, store_id);
ALTER TABLE ONLY public.raw_stores
    ADD CONSTRAINT raw_stores_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.recognition_items
    ADD CONSTRAINT recognition_items_pkey PRIMARY KEY (request_id, item_index);
ALTER TABLE ONLY public.recognition_requests
    ADD CONSTRAINT recognition_requests_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sku_image_embeddings
    ADD CONSTRAINT sku_image_embeddings_brand_sku_id_image_hash_model_version_key UNIQUE (brand, sku_id, image_hash, model_version);
ALTER TABLE ONLY public.sku_image_embeddings
    ADD CONSTRAINT sku_image_embeddings_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.unde_migrations
    ADD CONSTRAINT unde_migrations_pkey PRIMARY KEY (logical, name);
CREATE INDEX item_embeddings_version ON public.item_embeddings USING btree (namespace, version, modality, brand);
CREATE INDEX paid_answers_created ON public.paid_answers USING btree (created_at);
CREATE UNIQUE INDEX raw_availability_day ON public.raw_availability USING btree (brand, store_id, product_id, (((fetched_at AT TIME ZONE 'UTC'::text))::date));
CREATE INDEX raw_availability_fetched ON public.raw_availability USING btree (fetched_at DESC);
CREATE INDEX raw_availability_newest ON public.raw_availability USING btree (brand, store_id, product_id, fetched_at DESC);
CREATE INDEX raw_availability_product ON public.raw_availability USING btree (brand, product_id, fetched_at DESC);
CREATE INDEX raw_products_category ON public.raw_products USING btree (category_canonical, price);
CREATE INDEX raw_products_style ON public.raw_products USING btree (brand, style_id) WHERE (style_id IS NOT NULL);
CREATE INDEX raw_stores_mall ON public.raw_stores USING btree (mall_name, brand);
CREATE INDEX recognition_items_created ON public.recognition_items USING btree (created_at DESC);
CREATE INDEX recognition_items_model ON public.recognition_items USING btree (model_version, created_at DESC);
CREATE INDEX recognition_requests_created ON public.recognition_requests USING btree (created_at DESC);
CREATE INDEX recognition_requests_user ON public.recognition_requests USING btree (user_id);
CREATE INDEX sku_image_embeddings_brand ON public.sku_image_embeddings USING btree (brand);
CREATE INDEX sku_image_embeddings_sku ON public.sku_image_embeddings USING btree (model_version, brand, sku_id);
ALTER TABLE ONLY public.recognition_items
    ADD CONSTRAINT recognition_items_request_id_fkey FOREIGN KEY (request_id) REFERENCES public.recognition_requests(id) ON DELETE CASCADE;
